-- handoff.lua: the rest of release.lua, for a lock that others wait for or
-- share, or that ID does not hold.

if RETAINS and lenient('HGET', WAITERS, BUSY) == ID then
  redis.call('HDEL', WAITERS, BUSY)
end

if is_shared(holder) then
  local now, ttl_before = tonumber(now_us()), redis.call('PTTL', LOCK)
  local had_share, shared = leave(now)
  hand_off({now = now, floor = FLOOR, shared = shared})
  if shared then
    hurry_first(now, ttl_before)
  end
  return had_share and 1 or 0
end

if holder ~= ID then
  remove(ID)
  if not holder then
    hand_off({floor = FLOOR})
  end
  return 0
end

local outcome = hand_off({floor = FLOOR, last_used = LAST_USED > 0 and LAST_USED or nil})
if not outcome.held then
  redis.call('DEL', LOCK)
  if LAST_USED > 0 then -- give back the tokens that were not used
    local ahead = math.max(0, math.ceil((LAST_USED - now_us()) / 1000))
    redis.call('SET', FENCE, int(LAST_USED), 'PX', FLOOR + ahead)
  end
end
return 1
