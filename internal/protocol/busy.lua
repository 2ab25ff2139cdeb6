-- busy.lua: a holder answers the requests that asked whether it has the lock in
-- use. It has.
--
-- KEYS     see lock.lua
-- ARGV[1]  the ID of the holder
-- ARGV[2]  the ttl of its lease (ms): the answer is kept for that long
-- reply    1: noted
--          0: the ID does not hold the lock
--
-- The answer is one ID. It counts only while that ID holds the lock, whose release
-- removes it.

local ID, TTL = ARGV[1], ARGV[2]

local holder = redis.call('GET', LOCK)
if holder ~= ID and not (is_shared(holder) and redis.call('ZSCORE', READERS, ID)) then
  return 0
end
redis.call('HSET', WAITERS, BUSY, ID)
prolong(WAITERS, TTL)
return 1
