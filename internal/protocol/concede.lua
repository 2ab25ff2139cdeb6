-- concede.lua: give the lock back on one server of a quorum. Unlike release.lua it
-- grants nothing: it tells the first waiter, which asks all servers.
--
-- KEYS     see lock.lua
-- ARGV[1] to ARGV[8] as in ballot.lua. With a round above 0 the ID stays in the queue, at
--          its place: it had the lock on too few servers, and waits for it
-- ARGV[9]  the token that the fence goes back to: the last one used of those reserved, or
--          the fence before a grant that was of no use. 0: it stays. -1: there was none
-- ARGV[10] concede only a grant with this fence; 0: any. An ID that has asked anew
--          since keeps what it was granted then
-- reply    1: conceded
--          0: the ID did not hold the lock, or by another grant
--
-- The first write removes data, see release.lua.

local ID, TTL, FENCE_TTL, RESERVE = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ROUND, PLACE, COUNTED, MODE = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local LAST_USED, ONLY = tonumber(ARGV[9]), ARGV[10]

local holder = redis.call('GET', LOCK)
local simple = ROUND == '0' and LAST_USED == 0 and ONLY == '0' and not retains(ID)
if holder == ID and simple and redis.pcall('ZCARD', QUEUE) == 0 then
  redis.call('DEL', LOCK)
  return 1
end
