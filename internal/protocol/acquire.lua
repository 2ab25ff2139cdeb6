-- acquire: take the lock if it is free, or find that it is this ID's already.
--
-- KEYS[1]  the lock: its holder's ID, expiring with the lease
-- KEYS[2]  the fence: the last fencing token of this lock, expiring after it
-- ARGV[1]  the ID that asks
-- ARGV[2]  ttl of the lease, ms
-- ARGV[3]  floor lifetime, ms: how long the fence outlives the lease
-- reply    granted: the fencing token
--          refused: an array of one, ms until the holder's lease ends, -1 if it
--          never does
--
-- A token is the server's time in microseconds, or one above the last token
-- where that is higher. The fence is written with the grant, so however the
-- lease ends (release, expiry, deletion by hand) its successor starts above it.
-- It lives on until the server's clock is past its value by the floor lifetime,
-- so no step back of that clock by up to as much brings the tokens down.

local time = redis.call('TIME')

local fresh = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if not fresh then
  if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return {redis.call('PTTL', KEYS[1])}
  end
  -- This request was granted before and the reply got lost: grant it again.
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end

local token = time[1] * 1000000 + time[2]
local kept = ARGV[2] + ARGV[3]
local last = redis.pcall('SET', KEYS[2], string.format('%.0f', token), 'PX', kept, 'GET')
if type(last) == 'table' then -- an error: no lease without its token
  if fresh then
    redis.call('DEL', KEYS[1])
  end
  return last
end

last = last and tonumber(last)
if last and last >= token then
  kept = kept + math.ceil((last - token) / 1000) -- how far the clock is behind
  token = last + 1
  redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', kept)
end
return token
