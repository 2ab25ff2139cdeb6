-- extend: renew on behalf of a lease's ID, from any process. As renew, but its
-- caller does not know the token; the lock may also be one that was set by a
-- plain SET NX PX and has no fence.
--
-- KEYS[1]  the lock
-- KEYS[2]  the fence
-- ARGV[1]  the ID of the lease
-- ARGV[2]  ttl of the lease from now, ms
-- ARGV[3]  ttl of the fence from now, ms
-- reply    1 extended, 0 not this ID's

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return 1
