-- inspect.lua: tell who holds the lock and who waits for it. The script writes
-- nothing.
--
-- KEYS     see lock.lua
-- ARGV[1]  of how many holders, and of how many waiters, to tell
-- reply    an array of 6
--          1. free, read or write
--          2. the last fencing token, as text; empty: none is known
--          3. 2 values for each holder: its ID, and the ms until its lease ends,
--             or -1 if that never ends
--          4. how many holders there are beside these
--          5. 3 values for each waiter, in their order: its ID, its mode (r or w),
--             and for how long it has waited (us)
--          6. how many waiters there are beside these, the dead counted
--
-- Of a lock that readers hold, the holders with the most time left come first.

local LIMIT = tonumber(ARGV[1])
local PAGE = 200 -- so many waiters are looked at together
local LONGEST = 4096 -- of an ID (bytes), which anybody may have set

local now = tonumber(now_us())
local now_ms = math.floor(now / 1000)

local function holders()
  local holder = redis.call('GET', LOCK)
  if not is_shared(holder) then
    if not holder then
      return 'free', {}, 0
    end
    return 'write', {string.sub(holder, 1, LONGEST), redis.call('PTTL', LOCK)}, 0
  end
  local count = redis.call('ZCOUNT', READERS, '(' .. int(now_ms), '+inf')
  local all = redis.call('ZREVRANGEBYSCORE', READERS, '+inf', '(' .. int(now_ms),
    'WITHSCORES', 'LIMIT', 0, LIMIT)
  for i = 1, #all, 2 do
    all[i] = string.sub(all[i], 1, LONGEST)
    all[i + 1] = math.min(tonumber(all[i + 1]) - now_ms, YEAR)
  end
  return count > 0 and 'read' or 'free', all, count - #all / 2
end

-- Returns the channels of some waiters, and how many subscribers each has. It leaves
-- out those of which this server never had one. It returns no counts if the client
-- may not ask.
local function subscribers_of(ids, records)
  local channels, counts, of = {}, {}, {}
  for i, id in ipairs(ids) do
    -- The record ends with the digit "subscribed", a space and the mode.
    local name = records[i] and string.sub(records[i], -3, -3) == '1' and channel(id)
    of[i] = name or ''
    if name and not counts[name] then
      channels[#channels + 1], counts[name] = name, 1
    end
  end
  local reply = #channels > 0 and redis.pcall('PUBSUB', 'NUMSUB', unpack(channels)) or {}
  if reply.err then
    return of, {}
  end
  for i = 1, #reply, 2 do
    counts[reply[i]] = tonumber(reply[i + 1])
  end
  return of, counts
end

-- Reports whether a waiter with that record lives, and whether it reads.
local function lives(record)
  local asked, ttl = string.match(record, '^(%d+) (%d+) ')
  asked = tonumber(asked)
  return asked and now >= asked and now - asked <= ttl * 1000, string.sub(record, -1)
end

local function waiters()
  local all, seen, told, beyond = {}, 0, 0, 0
  while told < LIMIT and seen < 2 * LIMIT do
    local queued = lenient('ZRANGE', QUEUE, seen, seen + PAGE - 1, 'WITHSCORES') or {}
    if #queued == 0 then
      break
    end
    local ids = {}
    for i = 1, #queued, 2 do
      ids[#ids + 1] = queued[i]
    end
    local records = lenient('HMGET', WAITERS, unpack(ids)) or {}
    local channels, subscribed = subscribers_of(ids, records)
    for i, id in ipairs(ids) do
      local alive, mode = false, nil
      if records[i] then
        alive, mode = lives(records[i])
      end
      if alive and subscribed[channels[i]] ~= 0 then
        if told < LIMIT then
          local waited = math.min(math.max(0, now - queued[2 * i]), YEAR * 1000)
          all[3 * told + 1], all[3 * told + 2], all[3 * told + 3] = id, mode, waited
          told = told + 1
        else
          beyond = beyond + 1
        end
      end
    end
    seen = seen + #ids
  end
  return all, math.max(0, (lenient('ZCARD', QUEUE) or 0) - seen) + beyond
end

local mode, held_by, more_holders = holders()
local waiting, more_waiting = waiters()
local fence = lenient('GET', FENCE)
return {mode, fence or '', held_by, more_holders, waiting, more_waiting}
