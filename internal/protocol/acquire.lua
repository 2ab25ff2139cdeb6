-- acquire: take the lock if it is free and nobody waits for it, or find that it
-- is this ID's already; or else queue for it.
--
-- KEYS     as in queue.lua
-- ARGV[1]  the ID that asks
-- ARGV[2]  ttl of the lease, ms
-- ARGV[3]  floor lifetime, ms: how long the fence outlives the lease
-- ARGV[4]  tokens to spare: how many above the one granted are reserved with it
-- ARGV[5]  the round: how often this ID has asked, to tell its grants apart;
--          0: it does not wait
-- ARGV[6]  its place in the queue, as of an earlier reply; 0: none yet
-- ARGV[7]  1: it is counted by PUBLISH, so a count of 0 says that it is dead
-- reply    granted: the fencing token
--          refused: an array of three: ms until the holder's lease ends, -1 if
--          it never does; 1 if the holder hands the lock on to those who queue,
--          0 if it only lets go; its place in the queue, 0 if it does not wait
--
-- The fence is written with the grant, so however the lease ends (release, expiry,
-- deletion by hand) its successor starts above it. It lives on until the server's
-- clock is past its value by the floor lifetime, so no step back of that clock
-- by up to as much brings the tokens down.

local ID, TTL, FLOOR, SPARE, ROUND = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- Puts ID into the queue, or notes that it has asked again, and returns its place.
local function enqueue(now)
  local stale = redis.call('PTTL', QUEUE) < tonumber(TTL) -- or there is none yet
  redis.call('HSET', WAITERS, ID, table.concat({int(now), TTL, ROUND, SPARE, ARGV[7]}, ' '))
  if stale then
    redis.call('PEXPIRE', WAITERS, 2 * TTL)
  end
  local place = tonumber(ARGV[6])
  if place == 0 then
    local last = redis.call('ZREVRANGE', QUEUE, 0, 0, 'WITHSCORES')[2]
    place = math.max(now, (last or 0) + 1)
  end
  if redis.call('ZADD', QUEUE, 'NX', int(place), ID) == 0 then
    place = tonumber(redis.call('ZSCORE', QUEUE, ID))
  end
  if stale then
    redis.call('PEXPIRE', QUEUE, 2 * TTL)
  end
  return place
end

local now = now_us()
local waiting = redis.call('ZCARD', QUEUE) > 0 -- raises here, before any write, what is no queue
local free = not waiting and redis.call('SET', LOCK, ID, 'NX', 'PX', TTL)
local holder = not free and redis.call('GET', LOCK)
local place = 0

if holder == ID then -- granted before: the reply got lost, or the message
  if redis.call('PTTL', LOCK) < tonumber(TTL) then
    redis.call('PEXPIRE', LOCK, TTL)
  end
elseif not free then
  if ROUND ~= '0' then
    place = enqueue(now)
  end
  if holder then
    local ours = string.find(holder, '^%x+%-%x+%-%x+%-%x+%-%x+:%d+$')
    return {redis.call('PTTL', LOCK), ours and 1 or 0, place}
  end
  -- The last holder did not hand the lock on: that is done here.
  local next, failed = hand_on(now, FLOOR, nil, ID)
  if failed then
    redis.call('DEL', LOCK)
    return failed
  elseif next then
    return next.id == ID and next.token or {tonumber(next.ttl), 1, place}
  end
  redis.call('SET', LOCK, ID, 'PX', TTL)
end

local token, failed = next_token(now, TTL + FLOOR, SPARE)
if failed and holder ~= ID then -- no lease without its token
  redis.call('DEL', LOCK)
end
return failed or token
