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
-- reply    1 released, 0 not this ID's

local ID, FLOOR, USED = ARGV[1], ARGV[2], tonumber(ARGV[3])

local holder = redis.call('GET', LOCK)
if holder == ID and holder ~= SHARED and USED == 0 and redis.pcall('ZCARD', QUEUE) == 0 then
  redis.call('DEL', LOCK)
  return 1
end
