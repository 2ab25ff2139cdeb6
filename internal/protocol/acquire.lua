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

local function enqueue(now)
  local place = redis.call('ZSCORE', QUEUE, ID)
  local kept = math.max(redis.call('PTTL', QUEUE), 2 * TTL)
  redis.call('HSET', WAITERS, ID, table.concat({int(now), TTL, ROUND, SPARE, ARGV[7]}, ' '))
  redis.call('PEXPIRE', WAITERS, kept)
  if not place then
    place = tonumber(ARGV[6])
    if place == 0 then
      local last = redis.call('ZREVRANGE', QUEUE, 0, 0, 'WITHSCORES')[2]
      place = math.max(now, (last or 0) + 1)
    end
    redis.call('ZADD', QUEUE, int(place), ID)
  end
  redis.call('PEXPIRE', QUEUE, kept)
  return tonumber(place)
end

-- Grants the lock to ID and returns the token.
local function grant(now)
  local token, failed = next_token(now, TTL + FLOOR, SPARE)
  if failed then -- no lease without its token
    redis.call('DEL', LOCK)
  end
  return failed or token
end

local now = now_us()
local waiting = redis.call('ZCARD', QUEUE) > 0 -- raises here, before any write, what is no queue
if not waiting and redis.call('SET', LOCK, ID, 'NX', 'PX', TTL) then
  return grant(now)
end

local holder = redis.call('GET', LOCK)
if holder == ID then -- granted before: the reply got lost, or the message
  if redis.call('PTTL', LOCK) < tonumber(TTL) then
    redis.call('PEXPIRE', LOCK, TTL)
  end
  local token, failed = next_token(now, TTL + FLOOR, SPARE)
  return failed or token
end

local place = 0
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
  return failed
elseif not next then
  redis.call('SET', LOCK, ID, 'PX', TTL)
  return grant(now)
elseif next.id == ID then
  return next.token
end
return {tonumber(next.ttl), 1, place}
