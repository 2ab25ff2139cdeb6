-- contend: acquire, continued where others wait for the lock, or hold it, or it was free
-- for a reader.

-- Puts ID into the queue, or notes that it has asked again, and returns its place.
local function enqueue(now)
  local stale = redis.call('PTTL', QUEUE) < tonumber(TTL) -- or there is none yet
  redis.call('HSET', WAITERS, ID, table.concat({int(now), TTL, ROUND, SPARE, ARGV[7], ARGV[8]}, ' '))
  if stale then
    redis.call('PEXPIRE', WAITERS, 2 * TTL)
  end
  local place = tonumber(ARGV[6])
  if place == 0 then
    local last = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2]
    place = math.max(now, (last or 0) + 1)
  end
  if redis.call('ZADD', QUEUE, 'NX', int(place), ID) == 0 then
    place = tonumber(redis.call('ZSCORE', QUEUE, ID))
  end
  if stale then
    redis.call('PEXPIRE', QUEUE, 2 * TTL)
  end
  return place
end

-- Tells the readers that a writer waits, so that their processes let nobody else
-- in under their shares.
local function stop_readers()
  for _, id in ipairs(redis.call('ZRANGE', READERS, 0, -1)) do
    tell(id, 0, 0)
  end
end

now = tonumber(now)
local holder = not free and redis.call('GET', LOCK)
if holder == SHARED and purge(now) > 0 and not settle(now) then
  holder = nil
end

local joins = READS and holder == SHARED and (not waiting or redis.call('ZSCORE', READERS, ID))
if holder == ID then -- granted before: the reply got lost, or the message
  prolong(LOCK, TTL)
elseif not free and not joins then
  local place = ROUND ~= '0' and enqueue(now) or 0
  if not holder or holder == SHARED then
    -- What holders left undone is done here: they ended without handing the lock on,
    -- or a writer died, and readers wait behind it.
    local outcome = hand_on(now, KEPT - TTL, nil, ID, holder == SHARED)
    if outcome.token or outcome.failed then
      return outcome.token or outcome.failed
    end
    waiting = redis.call('ZCARD', QUEUE) > 0
    holder = outcome.held and redis.call('GET', LOCK)
    joins = READS and holder == SHARED and not waiting
  end
  if holder and not joins then
    if holder == SHARED and not READS and redis.call('ZRANGE', QUEUE, 0, 0)[1] == ID then
      stop_readers()
    end
    local ours = holder == SHARED or string.find(holder, '^%x+%-%x+%-%x+%-%x+%-%x+:%d+$')
    return {redis.call('PTTL', LOCK), ours and 1 or 0, place}
  end
  if not holder then
    redis.call('SET', LOCK, READS and SHARED or ID, 'PX', TTL)
    free = true
  end
end

local token, failed
if READS then
  if free then
    redis.call('DEL', READERS)
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
