-- lock: what all the scripts have in common. It stands in front of each.
--
-- KEYS[1]  the lock: its holder's ID, expiring with the lease; or SHARED while
--          readers hold, expiring with the last of their shares
-- KEYS[2]  the fence: the last fencing token of this lock, expiring after it
-- KEYS[3]  the queue: IDs of waiters, by their place
-- KEYS[4]  the waiters: what is known of each, see queue.lua
-- KEYS[5]  the readers: IDs of those that hold, by their deadline (ms, the
--          server's time); they mean nothing unless the lock is SHARED
--
-- A reader's share ends at its own deadline, whatever the others do. The lock and the
-- readers both expire with the latest, so a reader that leaves or dies before
-- shortens nothing, and when the last is past there is nothing to be found.

local LOCK, FENCE, QUEUE, WAITERS, READERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local SHARED = 'warlock:readers'

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function int(n) return string.format('%.0f', n) end

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
