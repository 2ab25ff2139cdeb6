-- cede.lua: the rest of concede.lua, for a lock that others wait for or share, that ID
-- does not hold, or that it goes on waiting for.

-- Tells the first live waiters that the lock is free for them, or shared: one that
-- writes, or a few that read. Drops the dead before them. It does not tell ID, which
-- has just found that other servers have the lock taken.
local function tell_first(now, shared)
  local told, dropped = false, drop_dead(now, MOST_DROPPED)
  for left = MOST_DROPPED, 1, -FEW do
    local ids = lenient('ZRANGE', QUEUE, 0, FEW - 1) or {}
    for _, id in ipairs(ids) do
      local waiter = live_waiter(id, now)
      if not waiter or unsubscribed(waiter) then
        remove(id)
        dropped = id
      elseif waiter.reads or not shared and not told then
        if id ~= ID then
          wake(id)
        end
        told, shared = true, true -- behind it, only readers may have the lock too
        if not waiter.reads then
          return
        end
      else
        return
      end
    end
    if told or #ids == 0 then
      break
    end
  end
  if not told and lenient('ZCARD', QUEUE) ~= 0 then
    wake_one(now)
  elseif not told and dropped then -- it may be alive: the clock may have leapt
    wake(dropped)
  end
end

-- Frees the lock, which ID holds alone.
local function free_lock(now)
  redis.call('DEL', LOCK)
  if LAST_USED < 0 then
    redis.call('DEL', FENCE)
  elseif LAST_USED > 0 then -- give back the tokens that were not used
    local ahead = math.max(0, math.ceil((LAST_USED - now) / 1000))
    redis.call('SET', FENCE, int(LAST_USED), 'PX', int(FENCE_TTL + ahead))
  end
end

if retains(ID) and lenient('HGET', WAITERS, BUSY) == ID then
  redis.call('HDEL', WAITERS, BUSY)
end

local now, had, shared = tonumber(now_us()), false, false
local others = holder and holder ~= ID
if is_shared(holder) then
  local ttl_before = redis.call('PTTL', LOCK)
  had, shared = leave(now)
  if shared and had then
    hurry_first(now, ttl_before)
  end
  others = false
elseif holder == ID then
  if ONLY ~= '0' and redis.call('GET', FENCE) ~= ONLY then
    return 0
  end
  free_lock(now)
  had = true
else
  remove(ID)
end
if ROUND ~= '0' then
  enqueue(now)
end
if not others then
  tell_first(now, shared)
end
return had and 1 or 0
