-- hand on: release, continued where others wait, or have a share, or the lock is not
-- this ID's.

local function leave_queue()
  redis.pcall('ZREM', QUEUE, ID)
  redis.pcall('HDEL', WAITERS, ID)
end

-- Ends ID's share, or else takes ID out of the queue. Reports whether it had a share,
-- and whether others have.
local function leave_readers(now)
  local deadline = redis.call('ZSCORE', READERS, ID)
  if not deadline then
    leave_queue()
    return false, settle(now)
  end
  redis.call('ZREM', READERS, ID)
  return tonumber(deadline) > math.floor(now / 1000), settle(now)
end

-- The first in the queue asks again when the lock will have expired. If that is sooner
-- than it has been told, as the readers that are left may be dead, it is told.
local function hurry_first(now, before)
  local left = redis.call('PTTL', LOCK)
  local id = left < before and redis.call('ZRANGE', QUEUE, 0, 0)[1]
  local waiter = id and live(id, now)
  if waiter and left < waiter.ttl / 3 then
    tell(id, 0, 0)
  end
end

if holder == SHARED then
  local now, before = tonumber(now_us()), redis.call('PTTL', LOCK)
  local had, shared = leave_readers(now)
  local outcome = hand_on(now, FLOOR, nil, nil, shared)
  if not outcome.held then
    redis.call('DEL', LOCK) -- what a dead waiter was granted
  elseif shared then
    hurry_first(now, before)
  end
  return had and (outcome.untold and {1, outcome.untold} or 1) or 0
end

if holder ~= ID then
  leave_queue()
  if not holder and not hand_on(nil, FLOOR).held then
    redis.call('DEL', LOCK) -- as above
  end
  return 0
end

local outcome = hand_on(nil, FLOOR, USED > 0 and USED or nil)
if not outcome.held then
  redis.call('DEL', LOCK)
  if USED > 0 then -- give back what was not used
    local ahead = math.max(0, math.ceil((USED - now_us()) / 1000))
    redis.call('SET', FENCE, int(USED), 'PX', FLOOR + ahead)
  end
end
return outcome.untold and {1, outcome.untold} or 1
