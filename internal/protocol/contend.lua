-- contend: acquire, continued where others wait for the lock, or hold it, or it was free
-- for a reader.

-- Lets a key live for as long as ID may stand in it.
local function keep(key)
  if redis.call('PTTL', key) < tonumber(TTL) then
    redis.call('PEXPIRE', key, 2 * TTL)
  end
end

-- Puts ID into the queue, or notes that it has asked again. Returns its place, and
-- whether this server has a subscriber of its mailbox.
local function enqueue(now)
  drop_stale(now, FEW)
  local count = ARGV[7] == '1' and subscribers(ID) or nil
  local counted = count and count > 0 and 1 or 0
  redis.call('HSET', WAITERS, ID, table.concat({int(now), TTL, ROUND, SPARE, counted, ARGV[8]}, ' '))
  keep(WAITERS)
  redis.call('ZADD', DEADLINES, int(math.floor(now / 1000) + TTL), ID)
  local place = tonumber(ARGV[6])
  if place == 0 then
    local last = tonumber(redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2] or 0) or EXACT
    place = last < EXACT and math.max(now, last + 1) or now
  end
  if redis.call('ZADD', QUEUE, 'NX', int(place), ID) == 0 then
    place = math.min(tonumber(redis.call('ZSCORE', QUEUE, ID)) or EXACT, EXACT)
  end
  keep(QUEUE)
  keep(DEADLINES)
  return place, count ~= 0
end

-- Tells the readers that a writer waits, so that their processes let nobody else
-- in under their shares. If the readers are many, it tells some of them, and others
-- at the next call. A reader that is not told learns of the writer at its next
-- renewal. Reports whether each reader that it found can tell the writer when it
-- leaves.
local function stop_readers(now)
  local last = redis.call('ZCARD', READERS) - MOST_TOLD
  local from = last > 0 and math.floor(now / 1000) % (last + 1) or 0
  local able = true
  for _, id in ipairs(redis.call('ZRANGE', READERS, from, from + MOST_TOLD - 1)) do
    tell(id, 0, 0)
    able = able and not mute(id)
  end
  return able
end

-- Reports whether the waiters right before ID in the queue can tell ID of its grant.
local function follows_able()
  local rank = redis.call('ZRANK', QUEUE, ID) or 0
  for _, id in ipairs(rank > 0 and redis.call('ZRANGE', QUEUE, math.max(0, rank - FEW), rank - 1) or {}) do
    if mute(id) then
      return false
    end
  end
  return true
end

-- Returns a refusal. For shared, waiter and holder see below.
local function refuse(now, holder, shared, place, heard, more)
  local able = shared or string.find(holder, '^%x+%-%x+%-%x+%-%x+%-%x+:%d+$')
  if shared then
    if not READS and lenient('ZRANGE', QUEUE, 0, 0)[1] == ID then
      able = stop_readers(now)
    end
    holder = redis.call('ZRANGE', READERS, -1, -1)[1] or holder
  end
  able = able and (place == 0 or follows_able())
  return {more and 0 or redis.call('PTTL', LOCK), able and 1 or 0, place, heard and 1 or 0, string.sub(holder, 1, 256)}
end

now = tonumber(now)
local holder = not free and redis.call('GET', LOCK) -- false: nobody
local shared = read_by_some(holder)
if shared and purge(now) > 0 and not settle(now) then
  holder, shared = false, false
end

local joins = READS and shared and (not waiting or redis.call('ZSCORE', READERS, ID))
if holder == ID then -- granted before: the reply got lost, or the message
  prolong(LOCK, TTL)
elseif not free and not joins then
  local place, heard = 0, true
  if ROUND ~= '0' then
    place, heard = enqueue(now)
  end
  if not holder or shared then
    -- What holders left undone is done here: they ended without handing the lock on,
    -- or a writer died, and readers wait behind it.
    local outcome = hand_on(now, KEPT - TTL, nil, ID, shared)
    if outcome.token or outcome.failed then
      return outcome.token or outcome.failed
    end
    waiting = redis.call('ZCARD', QUEUE) > 0
    holder = outcome.held and redis.call('GET', LOCK)
    shared = read_by_some(holder)
    joins = READS and shared and not waiting
    if outcome.more and not joins then
      return refuse(now, holder or '', shared, place, heard, true)
    end
  end
  if holder and not joins then
    return refuse(now, holder, shared, place, heard)
  end
  if not holder then
    redis.call('SET', LOCK, READS and SHARED or ID, 'PX', TTL)
    free = true
  end
end

local token, failed
if READS then
  if free then
    redis.call('UNLINK', READERS)
  end
  failed = share(ID, TTL, now)
end
if not failed then
  token, failed = next_token(now, KEPT, SPARE)
end
if failed and holder ~= ID then -- no lease without its token
  revoke(ID, READS, now)
end
return failed or token
