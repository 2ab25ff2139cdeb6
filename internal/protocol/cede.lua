-- cede.lua: the rest of concede.lua, for a lock that others wait for or share, that ID
-- does not hold, or that it goes on waiting for.

-- Hands the lock, which is free, off to a waiter that writes: with NEXT, as a ballot of that
-- token would get it. Reports whether.
local function hand_off_to(waiter, now)
  local _, floor = fence_and_floor(now)
  if NEXT <= floor or not waiter.subscribed or not remembers(MEMORY, RUN) then
    return false
  end
  redis.call('SET', LOCK, waiter.id, 'PX', waiter.ttl)
  if raise_fence(int(NEXT + waiter.reserve), now, waiter.ttl + FENCE_TTL) then
    redis.call('DEL', LOCK) -- no lease without a fence
    return false
  end
  remove(waiter.id)
  tell(waiter.id, waiter.round, NEXT)
  return true
end

-- Hands the lock off to the first live waiter, or tells that waiter that the lock is free.
-- Tells a few readers if they stand together at the head. Drops the dead before them. It does
-- not tell ID itself, whose client has just learned that it lost.
local function serve_first(now, shared)
  local told, dropped = false, nil
  for left = MOST_DROPPED, 1, -FEW do
    local ids = lenient('ZRANGE', QUEUE, 0, FEW - 1) or {}
    for _, id in ipairs(ids) do
      local waiter = live_waiter(id, now)
      if not waiter or unsubscribed(waiter) then
        remove(id)
        dropped = not dropped and drop_dead(now, MOST_DROPPED) or id
      elseif waiter.reads or not shared and not told then
        local handed = NEXT > 0 and not shared and not waiter.reads and hand_off_to(waiter, now)
        if not handed and id ~= ID then
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

if RETAINS and lenient('HGET', WAITERS, BUSY) == ID then
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
  serve_first(now, shared)
end
return had and 1 or 0
