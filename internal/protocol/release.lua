-- release.lua: give the lock back. The script hands the lock off to the first
-- live waiter, or frees it. A reader gives its share back.
--
-- KEYS     see lock.lua
-- ARGV[1]  the ID of the lease, or of a waiter
-- ARGV[2]  the floor lifetime (ms): how long the fence outlives the lease
-- ARGV[3]  the last token used of those reserved: the next may follow it.
--          0: none were reserved
-- reply    1: released
--          0: the ID did not hold the lock
--
--  1. An ID that does not hold the lock leaves the queue. So a wait ends by
--     this script too, even if the waiter was granted the lock at the same
--     instant.
--  2. The fence stays, and expires by itself.
--  3. The first write removes data: a server at its memory limit refuses a
--     script whose first write adds data.

local ID, FLOOR, LAST_USED = ARGV[1], ARGV[2], tonumber(ARGV[3])

local holder = redis.call('GET', LOCK)
local RETAINS = retains(ID)
local simple = LAST_USED == 0 and not RETAINS and holder ~= SHARED
if holder == ID and simple and redis.pcall('ZCARD', QUEUE) == 0 then
  redis.call('DEL', LOCK)
  return 1
end
