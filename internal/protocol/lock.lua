-- lock: the keys, the time and the tokens. It stands in front of each script.
--
-- KEYS[1]  the lock: its holder's ID, expiring with the lease; or SHARED while
--          readers hold, expiring with the last of their shares
-- KEYS[2]  the fence: the last fencing token of this lock, expiring after it
-- KEYS[3]  the queue: IDs of waiters, by their place
-- KEYS[4]  the waiters: what is known of each, see queue.lua
-- KEYS[5]  the readers: IDs of those that hold, by their deadline (ms, the
--          server's time); they mean nothing unless the lock is SHARED
-- KEYS[6]  the deadlines: IDs of waiters, by the time (ms, the server's) after
--          which they count as dead
--
-- What stands in the keys may have been written by anybody. So a number that is
-- read is bounded before it is used, and a plain lock may have the value SHARED:
-- readers hold only where the readers say so as well.

local LOCK, FENCE, QUEUE, WAITERS, READERS, DEADLINES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local SHARED = 'warlock:readers'
local EXACT = 9007199254740992 -- 2^53: whole numbers below are exact in Lua

-- Returns the server's time in microseconds, as text. Numbers this large cost more to
-- write out than to count with, and with tostring have an exponent.
local function now_us()
  local time = redis.call('TIME')
  return time[1] .. string.sub('00000' .. time[2], -6)
end

local function int(n) return string.format('%.0f', n) end

-- Returns the next fencing token and leaves it, with spare ones above it, behind
-- as the last. A token is the server's time in microseconds, or one above the
-- last where that is higher; used is the last if the caller knows it. The fence
-- lives for kept ms beyond its own value. spare is text, as it came. An error is returned, not raised: the
-- caller has granted something that it has to take back.
local function next_token(now, kept, spare, used)
  local top, ttl = now, kept
  if spare ~= '0' then
    top, ttl = now + spare, kept + math.ceil(spare / 1000)
  end
  local last = redis.pcall('SET', FENCE, top, 'PX', ttl, 'GET')
  if type(last) == 'table' then
    return nil, last
  end
  now, last = tonumber(now), used or last and tonumber(last)
  if not last or last < now or not (last < EXACT - 1 - spare) then -- no token of ours is that high, nor is NaN
    return now
  end
  local ahead = math.ceil((last + 1 + spare - now) / 1000) -- how far the clock is behind
  redis.call('SET', FENCE, int(last + 1 + spare), 'PX', int(kept + ahead))
  return math.floor(last) + 1
end
