-- release: hand the lock on to the first live waiter, or free it, if it is still
-- this ID's; or end this ID's share of it. If it is not this ID's, this ID leaves the
-- queue; so this is also how a wait ends, even one that was granted the lock at the
-- same instant.
--
-- The fence stays behind and expires by itself. The first write is one that takes
-- away: a server at its memory limit refuses any script that starts by writing new
-- data.
--
-- KEYS     as in lock.lua
-- ARGV[1]  the ID of the lease, or of the waiter
-- ARGV[2]  floor lifetime, ms: how long the fence outlives the lease
-- ARGV[3]  the last token that was used of those to spare, which the next may
--          follow; 0: none were reserved
-- reply    1 released, 0 not this ID's; or an array of 1 and the error of
--          PUBLISH if the next holder could not be told

local ID, FLOOR, USED = ARGV[1], ARGV[2], tonumber(ARGV[3])

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

local holder = redis.call('GET', LOCK)

if holder == SHARED then
  local now, before = now_us(), redis.call('PTTL', LOCK)
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
