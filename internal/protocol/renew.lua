-- renew.lua: let a lease live longer, if the ID still holds the lock or a
-- share.
--
-- KEYS     see lock.lua
-- ARGV[1]  the ID of the lease
-- ARGV[2]  the ttl of the lease from now (ms)
-- ARGV[3]  the floor lifetime (ms): how long the fence outlives the lease
-- ARGV[4]  the token of the lease. 0: the caller does not know it. Then the
--          lock may have no fence, as after a plain SET NX PX.
-- reply    0: the ID does not hold the lock
--          1: renewed
--          2: renewed, and others wait. The ID is a reader's, or is told of
--          others (see retains)
--
--  1. The script never creates the lock.
--  2. It says no only on a master.
--  3. It never shortens a lease. So a request that arrives after a later one
--     does no harm.

local ID, TTL, FLOOR, TOKEN = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local holder = redis.call('GET', LOCK)
local shared = is_shared(holder)
if shared then
  local now = tonumber(now_us())
  drop_expired(now) -- a removal comes first, see there
  if not redis.call('ZSCORE', READERS, ID) then
    only_on_master()
    return 0
  end
  local failed = give_share(ID, TTL, now)
  if failed then
    return failed
  end
elseif holder == ID then
  prolong(LOCK, TTL)
else
  only_on_master()
  return 0
end

local fence_ttl = TTL + FLOOR
if TOKEN ~= '0' and redis.call('PTTL', FENCE) == -2 then
  -- The fence was evicted or deleted. The holder's token is the last one.
  redis.call('SET', FENCE, TOKEN, 'PX', fence_ttl)
else
  prolong(FENCE, fence_ttl)
end
return (shared or retains(ID)) and (lenient('ZCARD', QUEUE) or 0) > 0 and 2 or 1
