-- queue.lua: the waiters, and the hand-off of the lock to them. In a script, it
-- comes before contend.lua or handoff.lua.
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
--
-- Grants
--  8. The scripts never take back a grant of which its waiter may know. So they
--     ask NUMSUB before they grant. The count that PUBLISH returns proves
--     nothing: a replica, or another node of a cluster, may deliver the message
--     to a waiter that PUBLISH did not count.
--  9. Readers that stand together at the head get the lock together.
-- 10. Nobody passes a live writer at the head. Newcomers queue behind it, even
--     readers while readers hold the lock.

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

-- Takes the first live waiter out of the queue and returns it. Drops the dead
-- waiters before it, as far as the budget goes. It returns nil, and leaves the
-- queue, at a writer while the lock is shared. The ID that asks, asker, is
-- alive whatever NUMSUB says.
local function next_waiter(now, shared, asker, budget)
  while budget.left > 0 do
    local head = lenient('ZRANGE', QUEUE, 0, 0)
    local id = head and head[1]
    if not id then -- the queue is empty, or of another type
      return nil
    end
    budget.left = budget.left - 1
    local waiter = live_waiter(id, now)
    if waiter and id ~= asker and unsubscribed(waiter) then
      waiter = nil
    end
    if shared and waiter and not waiter.reads then
      return nil
    end
    remove(id)
    if waiter then
      budget.left = budget.left - MOST_DROPPED / MOST_GRANTED
      return waiter
    end
    budget.last_dropped = id
  end
end

-- Takes back a grant of which id has not been told. Reports whether readers
-- still hold the lock.
local function revoke(id, reads, now)
  if not reads then
    redis.call('DEL', LOCK)
    return false
  end
  redis.call('ZREM', READERS, id)
  return expire_with_readers(now)
end

-- Grants the lock to a waiter: a writer alone, a reader beside the readers that
-- hold it if shared is true. Returns the token. On a server's error it grants
-- nothing, and returns nil and the error.
local function grant(waiter, now, floor, last_used, shared)
  local token, failed
  if waiter.reads then
    if not shared then
      redis.call('SET', LOCK, SHARED, 'PX', waiter.ttl)
      redis.call('UNLINK', READERS)
    end
    failed = give_share(waiter.id, waiter.ttl, now)
  else
    redis.call('SET', LOCK, waiter.id, 'PX', waiter.ttl)
  end
  if not failed then
    token, failed = next_token(now, waiter.ttl + floor, waiter.reserve, last_used)
  end
  if failed then
    revoke(waiter.id, waiter.reads, now)
  end
  return token, failed
end

-- Wakes a waiter after a hand-off. If the budget is used up, a live waiter asks
-- again and so goes on with the queue. If nobody was granted the lock, the last
-- waiter dropped may be alive after all: the clock may have leapt.
local function wake_after(now, outcome, last_dropped)
  if outcome.more then
    wake_one(now)
  elseif not outcome.held and last_dropped then
    wake(last_dropped)
  end
end

-- Hands the lock off to the first live waiter, and if that reads, to the
-- readers behind it. Tells each waiter of its grant, except the one that asks.
-- The lock must be free, shared, or the caller's to give. from has:
--   floor      the floor lifetime (ms)
--   now        the server's time (us); nil: not known yet
--   last_used  the last token that the caller used; nil: it is the fence
--   asker      the ID that asks; nil: none
--   shared     whether readers hold the lock
-- The outcome has:
--   held    whether anybody holds the lock now. If not, the caller may replace
--           or remove its value
--   token   the token of asker, if it was granted the lock
--   failed  the server's error for which a waiter was not granted the lock
--   more    whether the next call has waiters left to look at
local function hand_off(from)
  local outcome = {held = from.shared}
  if lenient('ZCARD', QUEUE) == 0 then
    return outcome
  end
  local now = from.now or tonumber(now_us())
  local budget = {left = MOST_DROPPED, last_dropped = drop_dead(now, MOST_DROPPED)}
  local shared, last_used = from.shared, from.last_used
  while true do
    local waiter = next_waiter(now, shared, from.asker, budget)
    if not waiter then
      break
    end
    local token, failed = grant(waiter, now, from.floor, last_used, shared)
    if failed then
      outcome.failed = failed
      return outcome
    end
    outcome.held = true
    if waiter.id == from.asker then
      outcome.token = token
    else
      tell(waiter.id, waiter.round, token)
    end
    if not waiter.reads then
      return outcome
    end
    shared, last_used = true, nil
  end
  outcome.more = budget.left <= 0 and lenient('ZCARD', QUEUE) ~= 0
  wake_after(now, outcome, budget.last_dropped)
  return outcome
end
