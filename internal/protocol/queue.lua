-- queue: what acquire and release have in common. It stands in front of what either
-- does about locks that are not free.
--
-- Of each waiter is known: when it last asked (us, the server's time), the ttl (ms)
-- that it asks for, the round, the tokens to spare, whether it was counted, and
-- whether it is to read (r) or to write (w).
--
-- A place is the server's time at arrival in microseconds, or one above the last
-- place. A waiter keeps its place for as long as it asks again within its ttl. A
-- waiter that does not is dead. A dead waiter costs at most its ttl, if it is granted
-- the lock. By then, all waiters that died before are past their ttls as well. A
-- waiter that asks again after all brings its old place along. Each call that queues
-- drops some dead waiters, wherever they stand. So the dead are never many more than
-- the living.
--
-- A waiter was counted if this server had a subscriber of its mailbox when it last
-- asked. If the server has none now, the waiter is dead as well. The scripts ask
-- NUMSUB before they grant. They do not trust the count of PUBLISH: a replica, or
-- another node of a cluster, also delivers what is published here. So a waiter may
-- have been told of its grant though PUBLISH counted nobody. A grant of which a
-- waiter may have been told is never taken back.
--
-- Readers that stand together at the head are granted the lock together. Nobody gets
-- past a live writer there: newcomers queue behind it, though readers hold.
--
-- A request noted in the future, after a step back of the clock, counts as dead.

-- Reports whether the client of id may not publish. Its IDs end with an m.
local function mute(id) return string.sub(id, -1) == 'm' end

local function channel(id) return 'warlock:mailbox:' .. (string.match(id, '^(.*):') or id) end

-- Returns how many subscribers this server has for the mailbox of id, or nil if that may not
-- be asked.
local function subscribers(id)
  local reply = redis.pcall('PUBSUB', 'NUMSUB', channel(id))
  return not reply.err and tonumber(reply[2]) or nil
end

-- Returns what is known of a waiter, if it is live at now.
local function live(id, now)
  local noted = lenient('HGET', WAITERS, id)
  if type(noted) ~= 'string' then
    return nil
  end
  local seen, ttl, round, spare, counted, mode = string.match(noted, '^(%d+) (%d+) (%d+) (%d+) (%d) ([rw])$')
  seen = tonumber(seen)
  if not seen or (tonumber(ttl) or EXACT) > YEAR or (tonumber(spare) or EXACT) > YEAR * 1000 then
    return nil
  end
  if now >= seen and now - seen <= ttl * 1000 then
    return {id = id, ttl = ttl, round = round, spare = spare, counted = counted == '1', reads = mode == 'r'}
  end
end

local function remove(...)
  lenient('ZREM', QUEUE, ...)
  lenient('HDEL', WAITERS, ...)
  lenient('ZREM', DEADLINES, ...)
end

-- Drops some of the waiters that have not asked again in time.
local function drop_stale(now, most, work)
  local stale = lenient('ZRANGEBYSCORE', DEADLINES, '-inf', '(' .. int(math.floor(now / 1000)), 'LIMIT', 0, most)
  if stale and #stale > 0 then
    remove(unpack(stale))
    if work then
      work.dropped = stale[#stale]
    end
  end
end

-- Tells id something by its mailbox: that it was granted the lock, or, if both
-- numbers are 0, that it should ask again.
local function tell(id, round, token)
  redis.pcall('PUBLISH', channel(id), id .. ' ' .. round .. ' ' .. int(token) .. ' ' .. LOCK)
end

-- Reports whether a waiter is known to be dead: it was heard of, and is not any more.
local function gone(waiter) return waiter.counted and subscribers(waiter.id) == 0 end

-- Tells a live waiter to ask again. It looks among the waiters with the last deadlines.
local function hint(now)
  for _, id in ipairs(lenient('ZRANGE', DEADLINES, -FEW, -1) or {}) do
    local waiter = live(id, now)
    if waiter and not gone(waiter) then
      return tell(id, 0, 0)
    end
  end
end

-- Takes the first live waiter out of the queue, and drops the dead before it, as many as work is left for. A
-- writer stays there while readers hold. The asker is alive, whatever is counted.
local function next_waiter(now, shared, asker, work)
  while work.left > 0 do
    local head = lenient('ZRANGE', QUEUE, 0, 0)
    local id = head and head[1]
    if not id then -- nobody waits, or it is no queue
      return nil
    end
    work.left = work.left - 1
    local waiter = live(id, now)
    if waiter and id ~= asker and gone(waiter) then
      waiter = nil
    end
    if shared and waiter and not waiter.reads then
      return nil
    end
    remove(id)
    if waiter then
      work.left = work.left - MOST_DROPPED / MOST_GRANTED
      return waiter
    end
    work.dropped = id
  end
end

-- Takes back what was granted to id, which has not been told. Reports whether readers hold.
local function revoke(id, reads, now)
  if not reads then
    redis.call('DEL', LOCK)
    return false
  end
  redis.call('ZREM', READERS, id)
  return settle(now)
end

-- Grants the lock to a waiter: alone, or as one of the readers, if shared beside those
-- that hold. Returns its token; or nothing but an error, and nothing is granted then.
local function grant(waiter, now, floor, used, shared)
  local token, failed
  if waiter.reads then
    if not shared then
      redis.call('SET', LOCK, SHARED, 'PX', waiter.ttl)
      redis.call('UNLINK', READERS)
    end
    failed = share(waiter.id, waiter.ttl, now)
  else
    redis.call('SET', LOCK, waiter.id, 'PX', waiter.ttl)
  end
  if not failed then
    token, failed = next_token(now, waiter.ttl + floor, waiter.spare, used)
  end
  if failed then
    revoke(waiter.id, waiter.reads, now)
  end
  return token, failed
end

-- Hands the lock, which must be free or the caller's to give, or shared, to the
-- first live waiter, and if that reads to those behind it that do, and tells them
-- so. The asker knows without being told. Returns what came of it:
--   held    the lock is held; if not, what stands in it is the caller's to remove
--   token   the asker's, if the lock was granted to it
--   failed  the error for which a waiter could not be granted the lock
--   more    there is more to do than one call does; a waiter was told to ask again
local function hand_on(now, floor, used, asker, shared)
  local outcome = {held = shared}
  if lenient('ZCARD', QUEUE) == 0 then
    return outcome
  end
  now = now or tonumber(now_us())
  local work = {left = MOST_DROPPED} -- and the last that was dropped
  drop_stale(now, MOST_DROPPED, work)
  while true do
    local waiter = next_waiter(now, shared, asker, work)
    if not waiter then
      break
    end
    local token, failed = grant(waiter, now, floor, used, shared)
    if failed then
      outcome.failed = failed
      return outcome
    end
    outcome.held = true
    if waiter.id == asker then
      outcome.token = token
    else
      tell(waiter.id, waiter.round, token)
    end
    if not waiter.reads then
      return outcome
    end
    shared, used = true, nil
  end
  outcome.more = work.left <= 0 and lenient('ZCARD', QUEUE) ~= 0
  if outcome.more then
    hint(now)
  elseif not outcome.held and work.dropped then
    tell(work.dropped, 0, 0) -- it may live, if the clock has leapt
  end
  return outcome
end
