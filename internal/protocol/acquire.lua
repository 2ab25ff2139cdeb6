-- acquire: take the lock, or share it, if it is free for that and nobody waits
-- for it, or find that it is this ID's already; or else queue for it.
--
-- KEYS     as in lock.lua
-- ARGV[1]  the ID that asks
-- ARGV[2]  ttl of the lease, ms
-- ARGV[3]  how long the fence lives, ms: the ttl, and the floor lifetime, by which
--          it outlives the lease
-- ARGV[4]  tokens to spare: how many above the one granted are reserved with it
-- ARGV[5]  the round: how often this ID has asked, to tell its grants apart;
--          0: it does not wait
-- ARGV[6]  its place in the queue, as of an earlier reply; 0: none yet
-- ARGV[7]  1: its mailbox is open, and NUMSUB may say whether on this server
-- ARGV[8]  r: to read, beside others that do; w: to write, alone
-- ARGV[9]  its channel, if it is to be seen whether its client may publish; else
--          nothing
-- reply    granted: the fencing token
--          refused: an array of five: ms until the holder's lease ends, 0 if it is
--          to ask again at once, -1 if it never does; 1 if the holder hands the lock on to those who
--          queue, and tells them, 0 if not; its place in the queue, 0 if it does not
--          wait; 1 if this server has a subscriber of its mailbox, or that was not asked, 0 if
--          not; the ID of a holder
--          mute: an array of one: the error of PUBLISH. Nothing was done.
--
-- The fence is written with the grant, so however the lease ends (release, expiry,
-- deletion by hand) its successor starts above it. It lives on until the server's
-- clock is past its value by the floor lifetime, so no step back of that clock
-- by up to as much brings the tokens down.
--
-- A lock that is free, and that nobody waits for, is taken right here: what other
-- cases need (contend.lua) takes a fifth of the time to set up.

local ID, TTL, KEPT, SPARE, ROUND, READS = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[8] == 'r'

if ARGV[9] ~= '' then
  local said = redis.pcall('PUBLISH', ARGV[9], '')
  if type(said) == 'table' then
    return {said.err}
  end
end

local now = now_us() -- raises, where it is denied, before any write, and the next what is no queue
local waiting = redis.call('ZCARD', QUEUE) > 0
local free = not waiting and redis.call('SET', LOCK, READS and SHARED or ID, 'NX', 'PX', TTL)
if free and not READS then
  local token, failed = next_token(now, KEPT, SPARE)
  if failed then -- no lease without its token
    redis.call('DEL', LOCK)
  end
  return failed or token
end
