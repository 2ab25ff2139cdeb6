-- enqueue.lua: queue an ID. In a script, it comes before refuse.lua or cede.lua.

-- Lets key live for as long as ID may stand in it.
local function keep_alive(key)
  if redis.call('PTTL', key) < tonumber(TTL) then
    redis.call('PEXPIRE', key, 2 * TTL)
  end
end

-- Queues ID, or renews its record. Returns its place, and whether this server
-- can reach its mailbox: false if it was asked and has no subscriber of it.
local function enqueue(now)
  drop_dead(now, FEW)
  local count = COUNTED == '1' and subscribers(ID) or nil
  local subscribed = count and count > 0 and 1 or 0
  local record = {int(now), TTL, ROUND, RESERVE, subscribed, MODE}
  redis.call('HSET', WAITERS, ID, table.concat(record, ' '))
  keep_alive(WAITERS)
  redis.call('ZADD', DEADLINES, int(math.floor(now / 1000) + TTL), ID)
  local place = tonumber(PLACE)
  if place == 0 then
    local tail = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')
    local last = tonumber(tail[2] or 0) or EXACT
    place = last < EXACT and math.max(now, last + 1) or now
  end
  if redis.call('ZADD', QUEUE, 'NX', int(place), ID) == 0 then
    place = math.min(tonumber(redis.call('ZSCORE', QUEUE, ID)) or EXACT, EXACT)
  end
  keep_alive(QUEUE)
  keep_alive(DEADLINES)
  return place, count ~= 0
end
