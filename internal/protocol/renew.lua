-- renew: keep a lease alive, if the lock is still this ID's. Never creates the
-- lock, and never shortens its life: a request that was held up on its way and
-- arrives after a later one takes nothing back.
--
-- KEYS[1]  the lock
-- KEYS[2]  the fence
-- ARGV[1]  the ID of the lease
-- ARGV[2]  ttl of the lease from now, ms
-- ARGV[3]  floor lifetime, ms: how long the fence outlives the lease
-- ARGV[4]  the lease's token
-- reply    1 renewed, 0 not this ID's

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local kept, left = ARGV[2] + ARGV[3], redis.call('PTTL', KEYS[2])
if left == -2 then -- evicted or deleted: the holder's token is the last one
  redis.call('SET', KEYS[2], ARGV[4], 'PX', kept)
elseif left < kept then
  redis.call('PEXPIRE', KEYS[2], kept)
end
return 1
