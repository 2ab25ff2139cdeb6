-- acquire: take the lock, or share it, if it is free for that and nobody waits
-- for it, or find that it is this ID's already; or else queue for it.
--
-- KEYS     as in lock.lua
-- ARGV[1]  the ID that asks
-- ARGV[2]  ttl of the lease, ms
-- ARGV[3]  floor lifetime, ms: how long the fence outlives the lease
-- ARGV[4]  tokens to spare: how many above the one granted are reserved with it
-- ARGV[5]  the round: how often this ID has asked, to tell its grants apart;
--          0: it does not wait
-- ARGV[6]  its place in the queue, as of an earlier reply; 0: none yet
-- ARGV[7]  1: it is counted by PUBLISH, so a count of 0 says that it is dead
-- ARGV[8]  r: to read, beside others that do; w: to write, alone
-- reply    granted: the fencing token
--          refused: an array of three: ms until the holder's lease ends, -1 if
--          it never does; 1 if the holder hands the lock on to those who queue,
--          0 if it only lets go; its place in the queue, 0 if it does not wait
--
-- The fence is written with the grant, so however the lease ends (release, expiry,
-- deletion by hand) its successor starts above it. It lives on until the server's
-- clock is past its value by the floor lifetime, so no step back of that clock
-- by up to as much brings the tokens down.

local ID, TTL, FLOOR, SPARE, ROUND, READS = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[8] == 'r'

-- Puts ID into the queue, or notes that it has asked again, and returns its place.
local function enqueue(now)
  local stale = redis.call('PTTL', QUEUE) < tonumber(TTL) -- or there is none yet
  redis.call('HSET', WAITERS, ID, table.concat({int(now), TTL, ROUND, SPARE, ARGV[7], ARGV[8]}, ' '))
  if stale then
    redis.call('PEXPIRE', WAITERS, 2 * TTL)
  end
  local place = tonumber(ARGV[6])
  if place == 0 then
    local last = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2]
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

-- Tells the readers that a writer waits, so that their processes let nobody else
-- in under their shares.
local function stop_readers()
  for _, id in ipairs(redis.call('ZRANGE', READERS, 0, -1)) do
    tell(id, 0, 0)
  end
end

local now = now_us()
local waiting = redis.call('ZCARD', QUEUE) > 0 -- raises here, before any write, what is no queue
local free = not waiting and redis.call('SET', LOCK, READS and SHARED or ID, 'NX', 'PX', TTL)
local holder = not free and redis.call('GET', LOCK)
if holder == SHARED and purge(now) > 0 and not settle(now) then
  holder = nil
end

local joins = READS and holder == SHARED and (not waiting or redis.call('ZSCORE', READERS, ID))
if holder == ID then -- granted before: the reply got lost, or the message
  prolong(LOCK, TTL)
elseif not free and not joins then
  local place = ROUND ~= '0' and enqueue(now) or 0
  if not holder or holder == SHARED then
    -- What holders left undone is done here: they ended without handing the lock on,
    -- or a writer died, and readers wait behind it.
    local outcome = hand_on(now, FLOOR, nil, ID, holder == SHARED)
    if outcome.token or outcome.failed then
      return outcome.token or outcome.failed
    end
    waiting = redis.call('ZCARD', QUEUE) > 0
    holder = outcome.held and redis.call('GET', LOCK)
    joins = READS and holder == SHARED and not waiting
  end
  if holder and not joins then
    if holder == SHARED and not READS and redis.call('ZRANGE', QUEUE, 0, 0)[1] == ID then
      stop_readers()
    end
    local ours = holder == SHARED or string.find(holder, '^%x+%-%x+%-%x+%-%x+%-%x+:%d+$')
    return {redis.call('PTTL', LOCK), ours and 1 or 0, place}
  end
  if not holder then
    redis.call('SET', LOCK, READS and SHARED or ID, 'PX', TTL)
    free = true
  end
end

local token, failed
if READS then
  if free then
    redis.call('DEL', READERS)
  end
  failed = share(ID, TTL, now)
end
if not failed then
  token, failed = next_token(now, TTL + FLOOR, SPARE)
end
if failed and holder ~= ID then -- no lease without its token
  revoke(ID, READS, now)
end
return failed or token
