-- queue.lua: the hand-off of the lock to the waiters. In a script, it comes before
-- contend.lua or handoff.lua.
--
--  1. The scripts never take back a grant of which its waiter may know. So they
--     ask NUMSUB before they grant. The count that PUBLISH returns proves
--     nothing: a replica, or another node of a cluster, may deliver the message
--     to a waiter that PUBLISH did not count.
--  2. Readers that stand together at the head get the lock together.
--  3. Nobody passes a live writer at the head. Newcomers queue behind it, even
--     readers while readers hold the lock.

-- Takes the first live waiter out of the queue and returns it. Drops the dead
-- waiters before it, as far as the budget goes. It returns nil, and leaves the
-- queue, at a writer while the lock is shared. The ID that asks, asker, is
-- alive whatever NUMSUB says.
local function next_waiter(now, shared, asker, budget)
  while budget.left > 0 do
    local head = lenient('ZRANGE', QUEUE, 0, 0)
    local id = head and head[1]
    if not id then -- the queue is empty, or of another type
      return nil
    end
    budget.left = budget.left - 1
    local waiter = live_waiter(id, now)
    if waiter and id ~= asker and unsubscribed(waiter) then
      waiter = nil
    end
    if shared and waiter and not waiter.reads then
      return nil
    end
    remove(id)
    if waiter then
      budget.left = budget.left - MOST_DROPPED / MOST_GRANTED
      return waiter
    end
    budget.last_dropped = id
  end
end

-- Grants the lock to a waiter: a writer alone, a reader beside the readers that
-- hold it if shared is true. Returns the token. On a server's error it grants
-- nothing, and returns nil and the error.
local function grant(waiter, now, floor, last_used, shared)
  local token, failed
  if waiter.reads then
    if not shared then
      redis.call('SET', LOCK, SHARED, 'PX', waiter.ttl)
      redis.call('UNLINK', READERS)
    end
    failed = give_share(waiter.id, waiter.ttl, now)
  else
    redis.call('SET', LOCK, waiter.id, 'PX', waiter.ttl)
  end
  if not failed then
    token, failed = next_token(now, waiter.ttl + floor, waiter.reserve, last_used)
  end
  if failed then
    revoke(waiter.id, waiter.reads, now)
  end
  return token, failed
end

-- Wakes a waiter after a hand-off. If the budget is used up, a live waiter asks
-- again and so goes on with the queue. If nobody was granted the lock, the last
-- waiter dropped may be alive after all: the clock may have leapt.
local function wake_after(now, outcome, last_dropped)
  if outcome.more then
    wake_one(now)
  elseif not outcome.held and last_dropped then
    wake(last_dropped)
  end
end

-- Hands the lock off to the first live waiter, and if that reads, to the
-- readers behind it. Tells each waiter of its grant, except the one that asks.
-- The lock must be free, shared, or the caller's to give. from has:
--   floor      the floor lifetime (ms)
--   now        the server's time (us); nil: not known yet
--   last_used  the last token that the caller used; nil: it is the fence
--   asker      the ID that asks; nil: none
--   shared     whether readers hold the lock
-- The outcome has:
--   held    whether anybody holds the lock now. If not, the caller may replace
--           or remove its value
--   token   the token of asker, if it was granted the lock
--   failed  the server's error for which a waiter was not granted the lock
--   more    whether the next call has waiters left to look at
local function hand_off(from)
  local outcome = {held = from.shared}
  if lenient('ZCARD', QUEUE) == 0 then
    return outcome
  end
  local now = from.now or tonumber(now_us())
  local budget = {left = MOST_DROPPED, last_dropped = drop_dead(now, MOST_DROPPED)}
  local shared, last_used = from.shared, from.last_used
  while true do
    local waiter = next_waiter(now, shared, from.asker, budget)
    if not waiter then
      break
    end
    local token, failed = grant(waiter, now, from.floor, last_used, shared)
    if failed then
      outcome.failed = failed
      return outcome
    end
    outcome.held = true
    if waiter.id == from.asker then
      outcome.token = token
    else
      tell(waiter.id, waiter.round, token)
    end
    if not waiter.reads then
      return outcome
    end
    shared, last_used = true, nil
  end
  outcome.more = budget.left <= 0 and lenient('ZCARD', QUEUE) ~= 0
  wake_after(now, outcome, budget.last_dropped)
  return outcome
end
