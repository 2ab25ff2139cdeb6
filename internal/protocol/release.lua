-- release: hand the lock on to the first live waiter, or free it, if it is still
-- this ID's. If it is not, this ID leaves the queue; so this is also how a
-- wait ends, even one that was granted the lock at the same instant.
--
-- The fence stays behind and expires by itself. The first write is one that takes
-- away: a server at its memory limit refuses any script that starts by writing new
-- data.
--
-- KEYS     as in queue.lua
-- ARGV[1]  the ID of the lease, or of the waiter
-- ARGV[2]  floor lifetime, ms: how long the fence outlives the lease
-- ARGV[3]  the last token that was used of those to spare, which the next may
--          follow; 0: none were reserved
-- reply    1 released, 0 not this ID's; or an array of 1 and the error of
--          PUBLISH if the next holder could not be told

local ID, FLOOR, USED = ARGV[1], ARGV[2], tonumber(ARGV[3])

local holder = redis.call('GET', LOCK)
if holder ~= ID then
  redis.pcall('ZREM', QUEUE, ID)
  redis.pcall('HDEL', WAITERS, ID)
  if not holder and not hand_on(nil, FLOOR) then
    redis.call('DEL', LOCK) -- what a dead waiter was granted
  end
  return 0
end

local next = hand_on(nil, FLOOR, USED > 0 and USED or nil)
if next then
  if type(next.heard) == 'table' then
    return {1, next.heard.err}
  end
  return 1
end

redis.call('DEL', LOCK)
if USED > 0 then -- give back what was not used
  local ahead = math.max(0, math.ceil((USED - now_us()) / 1000))
  redis.call('SET', FENCE, int(USED), 'PX', FLOOR + ahead)
end
return 1
