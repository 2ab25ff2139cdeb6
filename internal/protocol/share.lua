-- share.lua: the shares of readers. In a script, it comes before waiters.lua or
-- renew.lua.
--
--  1. A share ends at its own deadline, whatever other readers do.
--  2. The lock and the set of readers expire with the last share. So a reader
--     that leaves or dies shortens no other share.

local YEAR = 31536000000 -- ms: the longest ttl of a lease

-- One call of a script tells, drops, and grants the lock to, at most this many
-- readers or waiters. So it keeps the server for about 1 ms, however many there
-- are. The next call goes on with the rest.
local MOST_TOLD, MOST_DROPPED, MOST_GRANTED, FEW = 64, 64, 16, 8

-- Lets key live for at least ttl (ms) from now.
local function prolong(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- Calls a command. It returns nil if the key is of another type, as if the key
-- did not exist. It raises any other error.
local function lenient(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    return nil
  end
  return redis.call(...) -- raises the error
end

-- Raises an error on a replica, which refuses every write. A replica's data may
-- be old: a script that writes nothing calls this before it says no.
local function only_on_master() lenient('ZREM', QUEUE, '') end

-- Reports whether readers hold the lock, given the lock's value.
local function is_shared(value)
  return value == SHARED and redis.call('ZCARD', READERS) > 0
end

-- Drops some readers that are past their deadlines. Returns how many it
-- dropped. It calls ZREM even if there are none: a server at its memory limit
-- lets a script add data if the script's first write was a removal.
local function drop_expired(now)
  local now_ms = int(math.floor(now / 1000))
  local expired = redis.call('ZRANGEBYSCORE', READERS, '-inf', now_ms, 'LIMIT', 0, MOST_DROPPED)
  return redis.call('ZREM', READERS, '', unpack(expired))
end

-- Makes the lock, which must be SHARED, expire with its last share, or frees
-- the lock if all shares have ended. Reports whether readers still hold the
-- lock.
local function expire_with_readers(now)
  drop_expired(now)
  local last = redis.call('ZRANGE', READERS, -1, -1, 'WITHSCORES')[2]
  local left = last and math.min(last - math.floor(now / 1000), YEAR)
  if not left or left <= 0 then
    redis.call('DEL', LOCK)
    redis.call('UNLINK', READERS) -- the set may be large
    return false
  end
  redis.call('PEXPIRE', LOCK, int(left))
  redis.call('PEXPIRE', READERS, int(left))
  return true
end

-- Gives id a share of the lock, which must be SHARED, for ttl (ms) from now. It
-- never shortens a share that id has. It returns a server's error, and has
-- written nothing then.
local function give_share(id, ttl, now)
  local failed = redis.pcall('ZADD', READERS, 'GT', int(math.floor(now / 1000) + ttl), id)
  if type(failed) == 'table' then
    return failed
  end
  prolong(LOCK, ttl)
  prolong(READERS, ttl)
end

-- Takes back a grant of which id has not been told. Reports whether readers
-- still hold the lock.
local function revoke(id, reads, now)
  if not reads then
    redis.call('DEL', LOCK)
    return false
  end
  redis.call('ZREM', READERS, id)
  return expire_with_readers(now)
end
