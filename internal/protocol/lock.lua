-- lock.lua: the keys of a lock, the server's time, and fencing tokens. Each
-- script of a lock starts with this file.
--
-- KEYS[1]  lock       The holder's ID, as a plain string, or SHARED while
--                     readers hold the lock. It expires with the lease, or
--                     with the last share.
-- KEYS[2]  fence      The last fencing token of this lock. It outlives the
--                     lock.
-- KEYS[3]  queue      Sorted set: the IDs of the waiters, by place.
-- KEYS[4]  waiters    Hash: the record of each waiter, by ID (see waiters.lua).
-- KEYS[5]  readers    Sorted set: the IDs of the readers, by the deadline of
--                     their shares (ms, server's time).
-- KEYS[6]  deadlines  Sorted set: the IDs of the waiters, by the time (ms,
--                     server's time) after which a waiter counts as dead.
--
-- Other programs can write to these keys, therefore:
--  1. A script checks the bounds of each number that it reads from a key.
--  2. The value SHARED alone proves nothing. Readers hold the lock only if the
--     set of readers is not empty either.
--  3. The set of readers means nothing while the lock is not SHARED.

local LOCK, FENCE, QUEUE = KEYS[1], KEYS[2], KEYS[3]
local WAITERS, READERS, DEADLINES = KEYS[4], KEYS[5], KEYS[6]
local SHARED = 'warlock:readers'
local EXACT = 9007199254740992 -- 2^53: Lua counts exactly below it
local UUID, AFTER_UUID = '^%x+%-%x+%-%x+%-%x+%-%x+:', 37 -- an ID of this library begins so

-- Returns the server's time in microseconds, as text. Lua formats a number of
-- this size slowly, and tostring gives it an exponent.
local function now_us()
  local time = redis.call('TIME')
  return time[1] .. string.sub('00000' .. time[2], -6)
end

local function int(n) return string.format('%.0f', n) end

-- Returns the flag of id, which stands behind its number, at its end or before the owner's
-- label. '': it has none. nil: it is no ID of this library. It looks only at what is behind
-- the UUID: most IDs have no flag, and need no closer look.
local function flag_of(id)
  return string.match(id, '^:%d+(%a?)/', AFTER_UUID) or string.match(id, '^:%d+(%a?)$', AFTER_UUID)
end

local function flagged(id, flag) return flag_of(id) == flag and string.find(id, UUID) ~= nil end

-- Reports whether the holder id may keep the lock while no goroutine uses it. It
-- is told of others that ask.
local function retains(id) return flagged(id, 'r') end

-- Returns the next fencing token, and makes it the fence. The token is the
-- server's time in microseconds, or the last token + 1 if that is higher.
--   now        the server's time (us), a text or a number
--   fence_ttl  how long the fence lives on after the time that it stands for
--              (ms)
--   reserve    how many tokens to reserve above this one, as text. The fence
--              becomes the highest of them.
--   last_used  the last token; nil: the fence is the last token
-- A server's error is the second result. It is not raised, because the caller
-- must first take back what it has granted.
local function next_token(now, fence_ttl, reserve, last_used)
  local highest, ttl = now, fence_ttl
  if reserve ~= '0' then
    highest, ttl = now + reserve, fence_ttl + math.ceil(reserve / 1000)
  end
  local last = redis.pcall('SET', FENCE, highest, 'PX', ttl, 'GET')
  if type(last) == 'table' then
    return nil, last
  end
  now, last = tonumber(now), last_used or last and tonumber(last)
  -- The library writes no token that high. The comparison is also false of NaN.
  local in_bounds = last and last < EXACT - 1 - reserve
  if not last or last < now or not in_bounds then
    return now
  end
  local clock_behind = math.ceil((last + 1 + reserve - now) / 1000)
  redis.call('SET', FENCE, int(last + 1 + reserve), 'PX', int(fence_ttl + clock_behind))
  return math.floor(last) + 1
end
