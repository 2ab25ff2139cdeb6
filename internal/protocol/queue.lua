-- queue: what acquire and release have in common. It stands in front of what either
-- does about locks that are not free.
--
-- Of each waiter is known: when it last asked (us, the server's time), the ttl (ms)
-- that it asks for, the round, the tokens to spare, whether it is counted, and
-- whether it is to read (r) or to write (w).
--
-- A place is the server's time at arrival in microseconds, or one above the last
-- place. A waiter keeps its place for as long as it asks again within its ttl.
-- One that has not is dead, and is dropped when it is found at the head; so
-- however many of them there are, they are all past when the ttl of the first
-- is, which is the most that a grant to it can cost. One that asks again after
-- all brings its old place along.
--
-- Readers that stand together at the head are granted the lock together. Nobody gets
-- past a live writer there: newcomers queue behind it, though readers hold.
--
-- A request noted in the future, after a step back of the clock, counts as dead.

-- Returns what is known of a waiter, if it is live at now.
local function live(id, now)
  local noted = redis.pcall('HGET', WAITERS, id)
  if type(noted) ~= 'string' then
    return nil
  end
  local seen, ttl, round, spare, counted, mode = string.match(noted, '^(%d+) (%d+) (%d+) (%d+) (%d) ([rw])$')
  if seen and now >= tonumber(seen) and now - seen <= ttl * 1000 then
    return {id = id, ttl = ttl, round = round, spare = spare, counted = counted == '1', reads = mode == 'r'}
  end
end

-- Takes the first live waiter out of the queue, and drops the dead before it. A writer
-- stays there while readers hold.
local function next_waiter(now, shared)
  while true do
    local head = shared and redis.pcall('ZRANGE', QUEUE, 0, 0) or redis.pcall('ZPOPMIN', QUEUE)
    local id = head[1]
    if not id then -- nobody waits, or it is no queue
      return nil
    end
    now = now or tonumber(now_us())
    local waiter = live(id, now)
    if shared then
      if waiter and not waiter.reads then
        return nil
      end
      redis.call('ZREM', QUEUE, id)
    end
    redis.pcall('HDEL', WAITERS, id)
    if waiter then
      return waiter, now
    end
  end
end

-- Takes back what was granted to id. Reports whether readers hold.
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
      redis.call('DEL', READERS)
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

-- Tells id something by its mailbox: that it was granted the lock, or, if both
-- numbers are 0, that it should ask again. Returns what PUBLISH said.
local function tell(id, round, token)
  local mailbox = string.match(id, '^(.*):') or id
  return redis.pcall('PUBLISH', 'warlock:mailbox:' .. mailbox, id .. ' ' .. round .. ' ' .. int(token))
end

-- Hands the lock, which must be free or the caller's to give, or shared, to the
-- first live waiter, and if that reads to those behind it that do, and tells them
-- so. The asker knows without being told. Returns what came of it:
--   held    the lock is held; if not, what stands in it is the caller's to remove
--   token   the asker's, if the lock was granted to it
--   failed  the error for which a waiter could not be granted the lock
--   untold  the error for which a waiter could not be told
local function hand_on(now, floor, used, asker, shared)
  local outcome = {held = shared}
  while true do
    local waiter
    waiter, now = next_waiter(now, shared)
    if not waiter then
      return outcome
    end
    local token, failed = grant(waiter, now, floor, used, shared)
    if failed then
      outcome.failed = failed
      return outcome
    end
    local heard
    if waiter.id == asker then
      outcome.token = token
    else
      heard = tell(waiter.id, waiter.round, token)
      outcome.untold = type(heard) == 'table' and heard.err or outcome.untold
    end
    if heard == 0 and waiter.counted then -- nobody listens any more: dead
      used = token
      shared = waiter.reads and revoke(waiter.id, true, now)
      outcome.held = shared
    else
      outcome.held = true
      if not waiter.reads then
        return outcome
      end
      shared, used = true, nil
    end
  end
end
