-- extend: renew on behalf of a lease's ID, from any process. As renew, but its
-- caller does not know the token; the lock may also be one that was set by a
-- plain SET NX PX and has no fence.
--
-- KEYS[1]  the lock
-- KEYS[2]  the fence
-- ARGV[1]  the ID of the lease
-- ARGV[2]  ttl of the lease from now, ms
-- ARGV[3]  floor lifetime, ms: how long the fence outlives the lease
-- reply    1 extended, 0 not this ID's

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local kept = ARGV[2] + ARGV[3]
if redis.call('PTTL', KEYS[2]) < kept then
  redis.call('PEXPIRE', KEYS[2], kept)
end
return 1
