-- share: what all the scripts know of readers. It stands in front of what they do
-- about locks that are not free.
--
-- A reader's share ends at its own deadline, whatever the others do. The lock and the
-- readers both expire with the latest, so a reader that leaves or dies before
-- shortens nothing, and when the last is past there is nothing to be found.

local function prolong(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- Drops the readers that are past their deadlines, and returns how many they were.
local function purge(now)
  return redis.call('ZREMRANGEBYSCORE', READERS, '-inf', int(math.floor(now / 1000)))
end

-- Makes the lock, which must be SHARED, expire with the last of its readers.
-- Reports whether there is one; if not, the lock is free.
local function settle(now)
  purge(now)
  local last = redis.call('ZRANGE', READERS, -1, -1, 'WITHSCORES')[2]
  if not last then
    redis.call('DEL', LOCK)
    return false
  end
  local left = int(last - math.floor(now / 1000))
  redis.call('PEXPIRE', LOCK, left)
  redis.call('PEXPIRE', READERS, left)
  return true
end

-- Gives id a share of the lock, which must be SHARED, for ttl from now, or makes
-- the one that it has live for as long; it never shortens one. An error is
-- returned, not raised, and nothing was written then.
local function share(id, ttl, now)
  local failed = redis.pcall('ZADD', READERS, 'GT', int(math.floor(now / 1000) + ttl), id)
  if type(failed) == 'table' then
    return failed
  end
  prolong(LOCK, ttl)
  prolong(READERS, ttl)
end
