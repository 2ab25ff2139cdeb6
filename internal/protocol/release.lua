-- release: free the lock, if it is still this ID's. The fence stays behind and
-- expires by itself. The first write is a DEL: a server at its memory limit
-- refuses any script that starts by writing new data.
--
-- KEYS[1]  the lock
-- ARGV[1]  the ID of the lease
-- reply    1 released, 0 not this ID's

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
