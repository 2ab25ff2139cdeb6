-- waiters.lua: the waiters, and what they are told. In a script, it comes right after
-- share.lua.
--
-- The record of a waiter is "asked ttl round reserve subscribed mode":
--   asked       when the waiter last asked (us, server's time)
--   ttl         the ttl of the lease that it asks for (ms)
--   round       the number of its last request
--   reserve     how many tokens it asks for above its own
--   subscribed  1: this server had a subscriber of its mailbox at that time
--   mode        r: it reads; w: it writes
--
-- Places
--  1. A waiter's place is the server's time at its arrival (us), or the last
--     place + 1 if that is higher.
--  2. A waiter keeps its place if it asks again within its ttl. A waiter that
--     does not is dead.
--  3. A dead waiter that asks again all the same brings its old place along.
--
-- The dead
--  4. A dead waiter costs the others at most its ttl, if it is granted the
--     lock. By then, every waiter that died before is past its ttl too.
--  5. Each call that queues a waiter drops a few dead ones, wherever they
--     stand. So the dead are never many more than the living.
--  6. A waiter is also dead if this server had a subscriber of its mailbox and
--     has none now.
--  7. A waiter also counts as dead if its record is dated in the future, as
--     after the clock was set back.

-- Reports whether the client of id may not publish.
local function cannot_publish(id) return flagged(id, 'm') end

-- The field of WAITERS with the ID of a holder that has the lock in use (see
-- busy.lua). No waiter has that ID.
local BUSY = 'busy'

local function channel(id) return 'warlock:mailbox:' .. (string.match(id, '^([^:]*):') or id) end

-- Returns how many subscribers this server has for the mailbox of id. It
-- returns nil if the client may not ask for that.
local function subscribers(id)
  local reply = redis.pcall('PUBSUB', 'NUMSUB', channel(id))
  return not reply.err and tonumber(reply[2]) or nil
end

-- Returns the waiter id as a table, or nil if it is dead at now (us).
local function live_waiter(id, now)
  local record = lenient('HGET', WAITERS, id)
  if type(record) ~= 'string' then
    return nil
  end
  local pattern = '^(%d+) (%d+) (%d+) (%d+) (%d) ([rw])$'
  local asked, ttl, round, reserve, subscribed, mode = string.match(record, pattern)
  asked = tonumber(asked)
  local ttl_ok = (tonumber(ttl) or EXACT) <= YEAR
  local reserve_ok = (tonumber(reserve) or EXACT) <= YEAR * 1000
  if not (asked and ttl_ok and reserve_ok) then
    return nil
  end
  if now >= asked and now - asked <= ttl * 1000 then
    return {
      id = id, ttl = ttl, round = round, reserve = reserve,
      subscribed = subscribed == '1', reads = mode == 'r',
    }
  end
end

-- Takes waiters out of the queue.
local function remove(...)
  lenient('ZREM', QUEUE, ...)
  lenient('HDEL', WAITERS, ...)
  lenient('ZREM', DEADLINES, ...)
end

-- Drops at most limit waiters that have not asked again in time. Returns the
-- last of them, or nil.
local function drop_dead(now, limit)
  local now_ms = int(math.floor(now / 1000))
  local dead = lenient('ZRANGEBYSCORE', DEADLINES, '-inf', '(' .. now_ms, 'LIMIT', 0, limit)
  if dead and #dead > 0 then
    remove(unpack(dead))
    return dead[#dead]
  end
end

-- Tells id by its mailbox that it was granted the lock with token, for its
-- request of that round.
local function tell(id, round, token)
  redis.pcall('PUBLISH', channel(id), id .. ' ' .. round .. ' ' .. int(token) .. ' ' .. LOCK)
end

-- Tells id to ask again: a message of round 0 and token 0. To a holder it says
-- that others wait.
local function wake(id) tell(id, 0, 0) end

-- Asks the holder id, for a request that does not queue, whether it has the lock
-- in use: a message of round 0 and token 1.
local function ask_holder(id) tell(id, 0, 1) end

-- Reports whether a waiter's mailbox had a subscriber and has none now.
local function unsubscribed(waiter) return waiter.subscribed and subscribers(waiter.id) == 0 end

-- Wakes one live waiter, of the few whose deadlines are the latest.
local function wake_one(now)
  for _, id in ipairs(lenient('ZRANGE', DEADLINES, -FEW, -1) or {}) do
    local waiter = live_waiter(id, now)
    if waiter and not unsubscribed(waiter) then
      return wake(id)
    end
  end
end
