-- linger.lua: let a lock stay taken for a while, though its holder has unlocked it.
--
-- KEYS     see lock.lua
-- ARGV[1]  the ID of the lease
-- ARGV[2]  how long the lock stays taken from now (ms)
-- ARGV[3]  the floor lifetime (ms): how long the fence outlives the lease
-- reply    1: the lock expires then, or later with the shares of other readers
--          0: the ID did not hold the lock. It leaves the queue, as by release.lua
--
-- Nobody is granted the lock. The first waiter is told to ask again if the lock now
-- expires earlier than it knows.

local ID, LEFT, FLOOR = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local holder = redis.call('GET', LOCK)
local ttl_before = redis.call('PTTL', LOCK)
local now = tonumber(now_us())
if is_shared(holder) and redis.call('ZSCORE', READERS, ID) then
  drop_expired(now) -- a removal comes first, see there
  redis.call('ZADD', READERS, int(math.floor(now / 1000) + LEFT), ID)
  expire_with_readers(now)
elseif holder == ID then
  redis.call('PEXPIRE', LOCK, LEFT)
else
  remove(ID)
  return 0
end
prolong(FENCE, LEFT + FLOOR)

local head = redis.call('PTTL', LOCK) < ttl_before and lenient('ZRANGE', QUEUE, 0, 0)
if head and head[1] and live_waiter(head[1], now) then
  wake(head[1])
end
return 1
