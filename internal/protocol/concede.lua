-- concede.lua: give the lock back on one server of a quorum. A release proposes a token with
-- which each server hands the lock off to the first waiter, if that writes. A majority of
-- the servers mostly have one waiter first, which has the lock then. Else the waiter is told,
-- and asks all servers.
--
-- KEYS     see lock.lua
-- KEYS[7]  memory, see memory.lua
-- ARGV[1] to ARGV[8] as in ballot.lua. With a round above 0 the ID stays in the queue, at
--          its place: it had the lock on too few servers, and waits for it
-- ARGV[9]  the token that the fence goes back to: the last one used of those reserved, or
--          the fence before a grant that was of no use. 0: it stays. -1: there was none
-- ARGV[10] concede only a grant with this fence; 0: any. An ID that has asked anew
--          since keeps what it was granted then
-- ARGV[11] the token to hand the lock off with; 0: hand it to nobody
-- ARGV[12] the memory that the client has read, ARGV[13] the run ID in it: see ballot.lua
-- reply    1: conceded
--          0: the ID did not hold the lock, or by another grant
--
-- The first write removes data, see release.lua.

local ID, TTL, FENCE_TTL, RESERVE = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ROUND, PLACE, COUNTED, MODE = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local LAST_USED, ONLY = tonumber(ARGV[9]), ARGV[10]
local NEXT, MEMORY, RUN = tonumber(ARGV[11]), ARGV[12], ARGV[13]

local holder = redis.call('GET', LOCK)
local RETAINS = retains(ID)
local simple = ROUND == '0' and LAST_USED == 0 and ONLY == '0' and not RETAINS
if holder == ID and simple and redis.pcall('ZCARD', QUEUE) == 0 then
  redis.call('DEL', LOCK)
  return 1
end
