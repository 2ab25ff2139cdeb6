-- joint.lua: serve the requests of several locks at once, as far as they are
-- simple. The script leaves all others alone: they must ask by their own
-- scripts.
--
-- KEYS     3 for each request: the lock, its fence and its queue, as in
--          lock.lua
-- ARGV     5 for each request
--          1. which script the request stands for: acquire, renew or release
--          2. to 5. the first arguments of that script
-- reply    a number for each request
--          0: not served
--          acquire: the fencing token. renew, release: 1
--
--  1. A request is simple if nobody waits for the lock, and no reader holds it
--     or asks for it. A release that gives tokens back is not simple.
--  2. If a command fails, its request is not served. The caller meets the error
--     again by the request's own script.
--  3. A request of an ID that holds the lock already is not simple: another
--     request of that ID was carried out before.

local now = now_us()

local function acquire(id, ttl, fence_ttl, reserve)
  if redis.call('ZCARD', QUEUE) > 0 or not redis.call('SET', LOCK, id, 'NX', 'PX', ttl) then
    return 0
  end
  local token, failed = next_token(now, fence_ttl, reserve)
  if failed then -- no lease without a token
    redis.call('DEL', LOCK)
    return 0
  end
  return tonumber(token)
end

local function renew(id, ttl, floor, token)
  if redis.call('GET', LOCK) ~= id or retains(id) and redis.call('ZCARD', QUEUE) > 0 then
    return 0
  end
  local fence_left, fence_ttl = redis.call('PTTL', FENCE), ttl + floor
  if fence_left == -2 and token ~= '0' then
    return 0
  end
  if redis.call('PTTL', LOCK) < tonumber(ttl) then
    redis.call('PEXPIRE', LOCK, ttl)
  end
  if fence_left < fence_ttl then
    redis.call('PEXPIRE', FENCE, int(fence_ttl))
  end
  return 1
end

local function release(id)
  if redis.call('GET', LOCK) ~= id or retains(id) or redis.call('ZCARD', QUEUE) > 0 then
    return 0
  end
  return redis.call('DEL', LOCK)
end

local serve = {acquire = acquire, renew = renew, release = release}
local replies = {}
for i = 1, #KEYS / 3 do
  LOCK, FENCE, QUEUE = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local at = 5 * i - 4
  local done, reply = pcall(
    serve[ARGV[at]], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
  replies[i] = done and reply or 0
end
return replies
