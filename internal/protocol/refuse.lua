-- refuse.lua: refuse an ID. In a script, it comes before contend.lua or contest.lua.
--
-- A holder may keep the lock while no goroutine uses it (see retains). It gives
-- the lock back when it is asked to:
--  1. The first waiter tells it that it waits, each time that it asks. The
--     others do not.
--  2. A request that does not queue asks it, and is repeated soon. The holder
--     gives the lock back, or answers by busy.lua.

local ASKED = 2 -- see the reply of acquire.lua

-- Tells readers that a writer waits, so that their processes let no further
-- readers in under their shares. It tells some readers at each call if there
-- are many. A reader that is not told learns of the writer at its next renewal.
-- Reports whether each reader that it told can tell the writer when it leaves.
local function stop_readers(now)
  local last = redis.call('ZCARD', READERS) - MOST_TOLD
  local from = last > 0 and math.floor(now / 1000) % (last + 1) or 0
  local will_tell = true
  for _, id in ipairs(redis.call('ZRANGE', READERS, from, from + MOST_TOLD - 1)) do
    wake(id)
    will_tell = will_tell and not cannot_publish(id)
  end
  return will_tell
end

-- Asks the holders, for an ID that does not queue, whether they have the lock in
-- use. Returns false, and asks nobody, if a holder has it in use for certain.
local function ask_holders(holder, shared)
  local holders = {holder}
  local busy = lenient('HGET', WAITERS, BUSY)
  if shared then
    if redis.call('ZCARD', READERS) > MOST_TOLD or busy and redis.call('ZSCORE', READERS, busy) then
      return false
    end
    holders = redis.call('ZRANGE', READERS, 0, -1)
  end
  for _, id in ipairs(holders) do
    if not retains(id) or id == busy then
      return false
    end
  end
  for _, id in ipairs(holders) do
    ask_holder(id)
  end
  return true
end

-- Reports whether ID is the first waiter.
local function is_first() return lenient('ZRANGE', QUEUE, 0, 0)[1] == ID end

-- Reports whether the few waiters right before ID can tell it of its grant.
local function predecessors_will_tell()
  local rank = redis.call('ZRANK', QUEUE, ID) or 0
  if rank == 0 then
    return true
  end
  for _, id in ipairs(redis.call('ZRANGE', QUEUE, math.max(0, rank - FEW), rank - 1)) do
    if cannot_publish(id) then
      return false
    end
  end
  return true
end

-- Returns a refusal, as acquire.lua describes it. more: ID is to ask again at
-- once, because the queue has waiters that this call did not look at.
local function refuse(now, holder, shared, place, reachable, more)
  -- Of another ID, the holder does not hand off, or may not publish.
  local will_tell = shared or flagged(holder, '') or retains(holder)
  if ROUND == '0' and redis.call('ZCARD', QUEUE) == 0 and ask_holders(holder, shared) then
    return {redis.call('PTTL', LOCK), ASKED, 0, 1, string.sub(holder, 1, 256)}
  end
  if shared then
    if not READS and is_first() then
      will_tell = stop_readers(now)
    end
    holder = redis.call('ZRANGE', READERS, -1, -1)[1] or holder
  elseif retains(holder) and is_first() then
    wake(holder)
  end
  will_tell = will_tell and (place == 0 or predecessors_will_tell())
  local remaining = more and 0 or redis.call('PTTL', LOCK)
  holder = string.sub(holder, 1, 256)
  return {remaining, will_tell and 1 or 0, place, reachable and 1 or 0, holder}
end
