-- contest.lua: the rest of ballot.lua, for a lock that somebody holds or waits for,
-- that is to be read, or whose fence the token is not above.

-- Refuses ID, for a holder. Returns the reply.
local function refuse_ballot(holder, shared)
  local place, reachable = 0, true
  if tonumber(ROUND) > 0 then
    place, reachable = enqueue(now)
  else
    only_on_master()
  end
  local reply = refuse(now, holder, shared, place, reachable)
  reply[6] = now
  return reply
end

-- Refuses ID, for a waiter that comes first, or, if there is none, because this call has not
-- looked at all waiters before ID. Returns the reply.
local function stand_behind(waiter, place, reachable)
  if not waiter then
    return {0, 0, place, reachable and 1 or 0, '', now}
  end
  wake(waiter.id)
  return {tonumber(waiter.ttl), 1, place, reachable and 1 or 0, string.sub(waiter.id, 1, 256), now}
end

-- Looks whether all live waiters before ID may have the lock together with it. Returns
-- true, or false and the waiter that comes first. Drops dead waiters.
local function comes_next()
  local ids = lenient('ZRANGE', QUEUE, 0, MOST_GRANTED - 1) or {}
  for _, id in ipairs(ids) do
    if id == ID then
      return true
    end
    local waiter = live_waiter(id, now)
    if not waiter or unsubscribed(waiter) then
      remove(id)
    elseif not (READS and waiter.reads) then
      return false, waiter
    end
  end
  return #ids < MOST_GRANTED, nil
end

-- Makes ID the holder, or a holder beside others if the lock is shared. It returns a
-- server's error.
local function take(shared)
  if not READS then
    redis.call('SET', LOCK, ID, 'PX', TTL)
    return nil
  end
  if not shared then
    redis.call('SET', LOCK, SHARED, 'PX', TTL)
    redis.call('UNLINK', READERS)
  end
  return give_share(ID, TTL, now)
end

-- Wakes the first waiter if it reads, as ID does: it may have the lock beside ID.
local function wake_next_reader()
  local head = lenient('ZRANGE', QUEUE, 0, 0) or {}
  local waiter = head[1] and live_waiter(head[1], now)
  if waiter and waiter.reads then
    wake(waiter.id)
  end
end

now = tonumber(now)
local holder = redis.call('GET', LOCK) -- false: nobody
local shared = is_shared(holder)
if shared and drop_expired(now) > 0 and not expire_with_readers(now) then
  holder, shared = false, false
end

local held = holder == ID or shared and redis.call('ZSCORE', READERS, ID)
if holder and not held and not (READS and shared) then
  return refuse_ballot(holder, shared)
end
if not held and ROUND ~= '-1' then
  local place, reachable = 0, true
  if ROUND ~= '0' then
    place, reachable = enqueue(now)
  end
  local next, first = comes_next()
  if not next then
    return stand_behind(first, place, reachable)
  end
end
-- A refill is of a token that a majority has already. No other ballot is granted a token that
-- is not above the fence, even if ID holds the lock: another's release may have granted it to
-- ID with a higher token.
if low and ROUND ~= '-1' then
  return {now, int(floor)}
end

if waiting or ROUND ~= '0' then
  remove(ID)
end
local failed
if held and not READS then
  prolong(LOCK, TTL)
else
  failed = take(shared)
end
if not failed and (not low or TOKEN + RESERVE > floor) then
  failed = raise_fence(highest, now, FENCE_TTL)
end
if failed and not held then
  revoke(ID, READS, now)
end
if READS and not failed then
  wake_next_reader()
end
return failed or before
