-- acquire.lua: take the lock, or queue for it.
--
-- KEYS     see lock.lua
-- ARGV[1]  the ID that asks
-- ARGV[2]  the ttl of the lease (ms)
-- ARGV[3]  the ttl of the fence (ms): that of the lease, and the floor lifetime
--          by which the fence outlives the lease
-- ARGV[4]  how many tokens to reserve above the one granted
-- ARGV[5]  the round: the number of this request among those of the ID. A grant
--          names it. 0: do not queue
-- ARGV[6]  the ID's place in the queue, from an earlier reply; 0: none yet
-- ARGV[7]  1: the mailbox is open, and NUMSUB tells whether its subscription is
--          with this server
-- ARGV[8]  r: read, beside other readers; w: write, alone
-- ARGV[9]  the channel of the mailbox, if the script is to check that the
--          client may publish; empty: do not check
-- reply    granted: the fencing token
--          refused: an array of 5
--            1. ms until the holder's lease ends. 0: ask again at once; -1: the
--               lease never ends
--            2. 1: the holder will hand the lock off and tell the next waiter
--               2: the ID does not queue, and may get the lock soon. No
--               goroutine may have the lock in use. The holder was asked
--            3. the place in the queue; 0: not queued
--            4. 0: this server was asked, and has no subscriber of the mailbox
--            5. the ID of a holder
--          the client may not publish: an array of 1, the error of PUBLISH. The
--          script did nothing else.
--
-- The ID gets the lock at once in 3 cases:
--  1. The lock is free, and nobody waits.
--  2. The ID holds the lock already: a reply or a message was lost.
--  3. The ID reads, readers hold the lock, and nobody waits.
--
-- Tokens rise for these reasons:
--  1. The script writes the fence with the grant. So the next holder's token is
--     higher, however this lease ends.
--  2. The fence lives until the server's clock is past the fence's value by the
--     floor lifetime. So tokens rise even if the clock is set back by that
--     much.
--
-- This file serves a free lock. The rest, contend.lua, takes longer to set up.

local ID, TTL, FENCE_TTL, RESERVE = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local ROUND, PLACE, COUNTED, MODE = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local READS = MODE == 'r'

if ARGV[9] ~= '' then
  local published = redis.pcall('PUBLISH', ARGV[9], '')
  if type(published) == 'table' then
    return {published.err}
  end
end

-- TIME raises an error if it is denied, and ZCARD if the queue is of another
-- type. Both come before the first write.
local now = now_us()
local waiting = redis.call('ZCARD', QUEUE) > 0
local free = not waiting and redis.call('SET', LOCK, READS and SHARED or ID, 'NX', 'PX', TTL)
if free and not READS then
  local token, failed = next_token(now, FENCE_TTL, RESERVE)
  if failed then -- no lease without a token
    redis.call('DEL', LOCK)
  end
  return failed or token
end
