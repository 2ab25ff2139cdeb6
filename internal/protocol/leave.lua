-- leave.lua: the end of a reader's share. In a script, it comes before handoff.lua or
-- cede.lua.

-- Ends the share of ID, or takes ID out of the queue if it has none. Reports
-- whether ID had a share, and whether readers still hold the lock.
local function leave(now)
  local deadline = redis.call('ZSCORE', READERS, ID)
  if not deadline then
    remove(ID)
    return false, expire_with_readers(now)
  end
  redis.call('ZREM', READERS, ID)
  return tonumber(deadline) > math.floor(now / 1000), expire_with_readers(now)
end

-- Wakes the first waiter if the lock now expires earlier than before, and soon.
-- The waiter was told the old time, and the other readers may be dead.
local function hurry_first(now, ttl_before)
  local left = redis.call('PTTL', LOCK)
  local head = left < ttl_before and lenient('ZRANGE', QUEUE, 0, 0)
  local waiter = head and head[1] and live_waiter(head[1], now)
  if waiter and left < waiter.ttl / 3 then
    wake(waiter.id)
  end
end
