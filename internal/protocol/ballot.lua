-- ballot.lua: the vote of one server of a quorum. The server grants the lock to the
-- ID with the token that the client proposes, or refuses it, and may queue it.
--
-- KEYS     see lock.lua
-- KEYS[7]  memory: what this server says of its own memory, see memory.lua
-- ARGV[1]  the ID that asks
-- ARGV[2]  the ttl of the lease (ms)
-- ARGV[3]  the ttl of the fence (ms), see acquire.lua
-- ARGV[4]  how many tokens to reserve above the one proposed
-- ARGV[5]  the round, see acquire.lua. 0: do not queue. -1: the ID holds the lock on a
--          majority, and this server may have forgotten it
-- ARGV[6]  the ID's place in the queue: the client proposes it, the same on each
--          server. So all servers have one order
-- ARGV[7]  1: NUMSUB tells whether this server has a subscriber of the mailbox
-- ARGV[8]  r: read, beside other readers; w: write, alone
-- ARGV[9]  the token
-- ARGV[10] the memory that the client has read; empty: this server forgets nothing
-- ARGV[11] the run ID of the server, part of the memory; empty: it has none
-- reply    granted: the fence before, or 0: there was none
--          refused: an array of 6: the 5 of acquire.lua, and the server's time (us)
--          the token is not above the floor: an array of 2, the server's time (us) and
--            the floor
--          the memory is another by now: an array of 1. The script did nothing else
--
-- Nobody is granted the lock by this request but ID. It tells the first waiter if the lock is
-- free for that (see stand_behind).
--
-- This file serves a free lock. The rest is contest.lua.

local ID, TTL, FENCE_TTL, RESERVE = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ROUND, PLACE, COUNTED, MODE = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local READS, TOKEN, MEMORY = MODE == 'r', tonumber(ARGV[9]), ARGV[10]

if not remembers(MEMORY, ARGV[11]) then
  return {'forgotten'}
end

local now = now_us()
local before, floor = fence_and_floor(now)
local highest = RESERVE == '0' and ARGV[9] or int(TOKEN + RESERVE)
local low = TOKEN <= floor
local waiting = redis.call('ZCARD', QUEUE) > 0
local free = not low and not waiting and not READS and redis.call('SET', LOCK, ID, 'NX', 'PX', TTL)
if free then
  local failed = raise_fence(highest, now, FENCE_TTL)
  if failed then -- no lease without a fence
    redis.call('DEL', LOCK)
  end
  return failed or before
end
