-- hand on: release, continued where others wait, or have a share, or the lock is not
-- this ID's.

-- Ends ID's share, or else takes ID out of the queue. Reports whether it had a share,
-- and whether others have.
local function leave_readers(now)
  local deadline = redis.call('ZSCORE', READERS, ID)
  if not deadline then
    remove(ID)
    return false, settle(now)
  end
  redis.call('ZREM', READERS, ID)
  return tonumber(deadline) > math.floor(now / 1000), settle(now)
end

-- The first in the queue asks again when the lock will have expired. If that is sooner
-- than it has been told, as the readers that are left may be dead, it is told.
local function hurry_first(now, before)
  local left = redis.call('PTTL', LOCK)
  local head = left < before and lenient('ZRANGE', QUEUE, 0, 0)
  local waiter = head and head[1] and live(head[1], now)
  if waiter and left < waiter.ttl / 3 then
    tell(waiter.id, 0, 0)
  end
end

if read_by_some(holder) then
  local now, before = tonumber(now_us()), redis.call('PTTL', LOCK)
  local had, shared = leave_readers(now)
  hand_on(now, FLOOR, nil, nil, shared)
  if shared then
    hurry_first(now, before)
  end
  return had and 1 or 0
end

if holder ~= ID then
  remove(ID)
  if not holder then
    hand_on(nil, FLOOR)
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
return 1
