-- renew: keep a lease alive, if the lock is still this ID's, or it has a share of it.
-- Never creates the lock, and never shortens its life: a request that was held up on
-- its way and arrives after a later one takes nothing back.
--
-- KEYS     as in lock.lua
-- ARGV[1]  the ID of the lease
-- ARGV[2]  ttl of the lease from now, ms
-- ARGV[3]  floor lifetime, ms: how long the fence outlives the lease
-- ARGV[4]  the lease's token; 0: the caller does not know it, nor whether the
--          lock has a fence, which one that was set by a plain SET NX PX has not
-- reply    1 renewed, 2 renewed as a reader's while others queue, 0 not this ID's

local ID, TTL, FLOOR, TOKEN = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local holder = redis.call('GET', LOCK)
local shared = read_by_some(holder)
if shared then
  local now = tonumber(now_us())
  purge(now) -- before anything is added
  if not redis.call('ZSCORE', READERS, ID) then
    return 0
  end
  local failed = share(ID, TTL, now)
  if failed then
    return failed
  end
elseif holder == ID then
  prolong(LOCK, TTL)
else
  return 0
end

local kept = TTL + FLOOR
if TOKEN ~= '0' and redis.call('PTTL', FENCE) == -2 then -- evicted or deleted: the holder's token is the last one
  redis.call('SET', FENCE, TOKEN, 'PX', kept)
else
  prolong(FENCE, kept)
end
return shared and redis.call('ZCARD', QUEUE) > 0 and 2 or 1
