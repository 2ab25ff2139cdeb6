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
-- A request noted in the future, after a step back of the clock, counts as dead.

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

-- Takes the first live waiter out of the queue.
local function next_waiter(now)
  while true do
    local head = redis.pcall('ZPOPMIN', QUEUE)
    local id = head[1]
    if not id then -- nobody waits, or it is no queue
      return nil
    end
    now = now or now_us()
    local noted = redis.pcall('HGET', WAITERS, id)
    if type(noted) == 'string' then
      redis.call('HDEL', WAITERS, id)
      local seen, ttl, round, spare, counted = string.match(noted, '^(%d+) (%d+) (%d+) (%d+) (%d)$')
      if now >= tonumber(seen) and now - seen <= ttl * 1000 then
        return {id = id, ttl = ttl, round = round, spare = spare, counted = counted == '1'}, now
      end
    end
  end
end

-- Hands the lock, which must be free or the caller's to give, to the first live
-- waiter and tells it so. Returns the waiter, with its token and what PUBLISH
-- said; nothing if nobody waits, and nothing but an error if a token could not be
-- given. What stands in the lock is the caller's to remove then. The asker knows
-- without being told.
local function hand_on(now, floor, used, asker)
  while true do
    local waiter
    waiter, now = next_waiter(now)
    if not waiter then
      return nil
    end
    redis.call('SET', LOCK, waiter.id, 'PX', waiter.ttl)
    local token, failed = next_token(now, waiter.ttl + floor, waiter.spare, used)
    if failed then
      return nil, failed
    end
    waiter.token = token
    if waiter.id == asker then
      return waiter
    end
    local mailbox = 'warlock:mailbox:' .. string.match(waiter.id, '^(.*):')
    waiter.heard = redis.pcall('PUBLISH', mailbox, waiter.id .. ' ' .. waiter.round .. ' ' .. int(token))
    if waiter.heard ~= 0 or not waiter.counted then
      return waiter
    end
    used = token -- nobody listens any more: dead
  end
end
