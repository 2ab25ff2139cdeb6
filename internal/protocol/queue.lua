-- queue: what acquire and release have in common. It stands in front of either.
--
-- KEYS[1]  the lock: its holder's ID, expiring with the lease
-- KEYS[2]  the fence: the last fencing token of this lock, expiring after it
-- KEYS[3]  the queue: IDs of waiters, by their place
-- KEYS[4]  the waiters: by ID, when it last asked (us, the server's time), the
--          ttl (ms) it asks for, the round, the tokens to spare, whether it is
--          counted
--
-- A place is the server's time at arrival in microseconds, or one above the last
-- place. A waiter keeps its place for as long as it asks again within its ttl.
-- One that has not is dead, and is dropped when it is found at the head; so
-- however many of them there are, they are all past when the ttl of the first
-- is, which is the most that a grant to it can cost. One that asks again after
-- all brings its old place along.
--
-- A place noted in the future, after a step back of the clock, counts as dead.

local LOCK, FENCE, QUEUE, WAITERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function int(n) return string.format('%.0f', n) end

-- Returns the next fencing token and leaves it, with spare ones above it, behind
-- as the last. A token is the server's time in microseconds, or one above the
-- last where that is higher; used is the last if the caller knows it. The fence
-- lives for kept ms beyond its own value. An error is returned, not raised: the
-- caller has granted something that it has to take back.
local function next_token(now, kept, spare, used)
  local ahead = math.ceil(spare / 1000)
  local last = redis.pcall('SET', FENCE, int(now + spare), 'PX', kept + ahead, 'GET')
  if type(last) == 'table' then
    return nil, last
  end
  last = used or last and tonumber(last)
  if not last or last < now then
    return now
  end
  ahead = math.ceil((last + 1 + spare - now) / 1000) -- how far the clock is behind
  redis.call('SET', FENCE, int(last + 1 + spare), 'PX', kept + ahead)
  return last + 1
end

-- Grants the lock to the first live waiter and tells it so. Returns its ID, ttl
-- and token, and what PUBLISH said; no ID if nobody waits; an error if a grant
-- failed, and the lock is free then. The asker knows without being told.
local function hand_on(now, floor, used, asker)
  while true do
    local id = redis.call('ZPOPMIN', QUEUE)[1]
    if not id then
      return nil
    end
    local waiter = redis.call('HGET', WAITERS, id) or ''
    redis.call('HDEL', WAITERS, id)
    local seen, ttl, round, spare, counted = string.match(waiter, '^(%d+) (%d+) (%d+) (%d+) (%d)$')
    if seen and now >= tonumber(seen) and now - seen <= ttl * 1000 then
      redis.call('SET', LOCK, id, 'PX', ttl)
      local token, failed = next_token(now, ttl + floor, spare, used)
      if failed then
        redis.call('DEL', LOCK)
        return nil, failed
      end
      if id == asker then
        return {id = id, ttl = ttl, token = token}
      end
      local mailbox = 'warlock:mailbox:' .. string.match(id, '^(.*):')
      local heard = redis.pcall('PUBLISH', mailbox, id .. ' ' .. round .. ' ' .. int(token))
      if heard ~= 0 or counted == '0' then
        return {id = id, ttl = ttl, token = token, heard = heard}
      end
      redis.call('DEL', LOCK) -- nobody listens any more: dead
      used = token -- a late message may have taken it there all the same
    end
  end
end
