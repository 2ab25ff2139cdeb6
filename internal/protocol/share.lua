-- share: what all the scripts know of readers. It stands in front of what they do
-- about locks that are not free.
--
-- A reader's share ends at its own deadline, whatever the others do. The lock and the
-- readers both expire with the latest, so a reader that leaves or dies before
-- shortens nothing, and when the last is past there is nothing to be found.

local YEAR = 31536000000 -- ms; no lease lives longer

-- One call of a script drops, tells, and grants the lock to, no more than this many
-- waiters or readers. So it keeps the server for about a millisecond, however many
-- there are. The next call goes on where it ended.
local MOST_TOLD, MOST_DROPPED, MOST_GRANTED, FEW = 64, 64, 16, 8

local function prolong(key, ttl)
  if redis.call('PTTL', key) < tonumber(ttl) then
    redis.call('PEXPIRE', key, ttl)
  end
end

-- Calls a command on a key that may hold another type than ours, which is as if
-- there were none: the result is nil then. Any other error is raised.
local function lenient(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return reply
  end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then
    return nil
  end
  return redis.call(...) -- raises it
end

-- Reports whether readers hold the lock, in which stands holder.
local function read_by_some(holder)
  return holder == SHARED and redis.call('ZCARD', READERS) > 0
end

-- Drops some of the readers that are past their deadlines, and returns how many. It takes away even if there
-- are none: after that, a server at its memory limit lets the script add.
local function purge(now)
  local past = redis.call('ZRANGEBYSCORE', READERS, '-inf', int(math.floor(now / 1000)), 'LIMIT', 0, MOST_DROPPED)
  return redis.call('ZREM', READERS, '', unpack(past))
end

-- Makes the lock, which must be SHARED, expire with the last of its readers.
-- Reports whether there is one before its deadline; if not, the lock is free.
local function settle(now)
  purge(now)
  local last = redis.call('ZRANGE', READERS, -1, -1, 'WITHSCORES')[2]
  local left = last and math.min(last - math.floor(now / 1000), YEAR)
  if not left or left <= 0 then
    redis.call('DEL', LOCK)
    redis.call('UNLINK', READERS) -- there may be many
    return false
  end
  redis.call('PEXPIRE', LOCK, int(left))
  redis.call('PEXPIRE', READERS, int(left))
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
