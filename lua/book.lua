-- The book of one voucher, and how locks enter and leave it, in blocks. A verb names a block where it wants its text
-- (scripts.py puts it there): Lua would make a function anew in every call, at a sixth of what an empty script costs.
--
-- vs:{CODE} is one STRING of thirteen words, so that a script reads it and a session in a single MGET:
--   life                      random, new whenever the code is created: a deleted voucher leaves its heir nothing
--   put                       random, of the put_voucher that wrote the limits: it changes nothing a second time
--   quantity credits points   the limits; quantity '-' is without limit
--   quantity credits points   used
--   quantity credits points   locked: the sum of vs:{CODE}:locks, expired locks not yet reclaimed included
--   next_expiry_ms            no lock expires before it
--   locked_until_ms           no lock expires after it: from then on nothing is locked, with no walk
--                             (locks that go before their time leave it as it is, until expired ones are next taken out)
-- vs:{CODE}:locks holds '<credits> <points> <session key>' by expiry in ms, and expires at locked_until_ms.
-- vs:{CODE}:session:<key> is '<life> <expires_at_ms> <credits> <points> <call>', and expires by itself; `call` is the
-- validate that wrote it. A session that was released or redeemed keeps its words for a while, with the call that ended
-- it behind them; a deleted voucher keeps 'deleted <call>'. A client that got no reply sends its call again by itself,
-- and is answered by these as it was the first time.
--
-- A lock is live while now < expires_at_ms. Redis keeps a key through the very millisecond of its expiry, so what is
-- stored decides and not the key's presence; the native TTLs only give the memory back.

-- block: constants
local TOMBSTONE_MS = 120000 -- longer than any client repeats by itself: 11 timeouts of 5 s, and the pauses between
local reclaimable = 500 -- how many expired locks one script call takes out at most: it bounds how long the server is busy

-- block: clock
-- Sets `now`, in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- block: open
-- Reads `text`, what stands at `book_key`. Sets `book`, or nil where there is no voucher.
local book
local head, life, put, quantity_limit, credits_limit, points_limit, quantity_used, credits_used, points_used,
  quantity_locked, credits_locked, points_locked, next_expiry, locked_until = string.match(text or '',
  '^((%w+) (%w+) (%S+) (%d+) (%d+)) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
if head then
  book = {
    key = book_key,
    locks_key = locks_key,
    head = head,
    life = life,
    -- 2^53 - 1 is what a double holds exactly: even a voucher without limit ends there.
    quantity_limit = quantity_limit == '-' and 9007199254740991 or quantity_limit + 0,
    credits_limit = credits_limit + 0,
    points_limit = points_limit + 0,
    quantity_used = quantity_used + 0,
    credits_used = credits_used + 0,
    points_used = points_used + 0,
    quantity_locked = quantity_locked + 0,
    credits_locked = credits_locked + 0,
    points_locked = points_locked + 0,
    next_expiry = next_expiry + 0,
    locked_until = locked_until + 0,
  }
-- MGET shows a key of another type as absent; GET tells that it is somebody else's.
elseif not string.match(text or redis.call('GET', book_key) or 'deleted ', '^deleted ') then
  error('CORRUPT ' .. book_key)
end

-- block: save
-- Writes `book`. No balance ever falls below zero, whatever hands reached into Redis.
redis.call('SET', book.key, string.format('%s %d %d %d %d %d %d %d %d', book.head,
  math.max(0, book.quantity_used), math.max(0, book.credits_used), math.max(0, book.points_used),
  math.max(0, book.quantity_locked), math.max(0, book.credits_locked), math.max(0, book.points_locked),
  book.next_expiry, book.locked_until))

-- block: reclaim
-- Takes expired locks out of `book`. Sets `again` when more than a batch had expired.
if book.quantity_locked > 0 and now >= book.next_expiry then
  local last = redis.call('ZRANGE', locks_key, -1, -1, 'WITHSCORES')[2]
  if now >= (last and last + 0 or book.locked_until) then
    -- Also where Redis has expired the index: in this very millisecond it may still stand.
    redis.call('UNLINK', locks_key)
    book.quantity_locked, book.credits_locked, book.points_locked = 0, 0, 0
    book.next_expiry, book.locked_until = 0, 0
  elseif last then
    local expired = redis.call('ZRANGEBYSCORE', locks_key, '-inf', string.format('%d', now), 'LIMIT', 0, reclaimable)
    for _, member in ipairs(expired) do
      local credits, points = string.match(member, '^(%d+) (%d+) ')
      if not credits then
        error('CORRUPT ' .. locks_key)
      end
      book.quantity_locked = book.quantity_locked - 1
      book.credits_locked = book.credits_locked - credits
      book.points_locked = book.points_locked - points
    end
    if #expired > 0 then
      redis.call('ZREMRANGEBYRANK', locks_key, 0, #expired - 1)
      reclaimable = reclaimable - #expired
    end
    book.next_expiry = redis.call('ZRANGE', locks_key, 0, 0, 'WITHSCORES')[2] + 0
    book.locked_until = last + 0
    redis.call('PEXPIREAT', locks_key, last)
    again = again or now >= book.next_expiry
  end
  -- include: save
end

-- block: session
-- Reads `session_text`, what stands at the session's key. Sets what its live lock holds, and where its words are those
-- of a lock, live or not: `set_by` and `ended_by`, the calls that did it.
local own_quantity, own_credits, own_points, own_expires_at, own_member = 0, 0, 0, 0, nil
local session_life, expires_at_text, credits_text, points_text, set_by, ended_by
if session_text then
  session_life, expires_at_text, credits_text, points_text, set_by, ended_by =
    string.match(session_text, '^(%w+) (%d+) (%d+) (%d+) (%w+) ?(%w*)$')
  if not session_life then
    error('CORRUPT ' .. book_key)
  elseif session_life ~= book.life then
    set_by, ended_by = nil, nil
  elseif ended_by == '' and now < expires_at_text + 0 then
    own_quantity, own_credits, own_points, own_expires_at = 1, credits_text + 0, points_text + 0, expires_at_text + 0
    own_member = credits_text .. ' ' .. points_text .. ' ' .. session_key
    book.own_member, book.own_text, book.own_credits, book.own_points = own_member, session_text, own_credits, own_points
  end
end

-- block: judge
-- Judges `credits` and `points` against limit - used - the locks of other sessions. Sets `fits` to false where they do
-- not fit. Behind the first `n` items of `reply` it tells: reason ('': it fits), locked_by_others, retry_after_ms, and
-- quantity (-1: without limit), credits, points available to the caller.
local quantity_left = book.quantity_limit - book.quantity_used
local credits_left = book.credits_limit - book.credits_used
local points_left = book.points_limit - book.points_used
local would_fit = quantity_left >= 1
  and (credits == 0 or credits_left >= credits) and (points == 0 or points_left >= points)
-- What others hold is never less than nothing, should the totals have been tampered with.
quantity_left = quantity_left - math.max(0, book.quantity_locked - own_quantity)
credits_left = credits_left - math.max(0, book.credits_locked - own_credits)
points_left = points_left - math.max(0, book.points_locked - own_points)
local reason, held, retry_after_ms = '', 0, 0
if quantity_left < 1 then
  reason = 'quantity_exceeded'
elseif credits > 0 and credits_left < credits then
  reason = 'gift_amount_exceeded'
elseif points > 0 and points_left < points then
  reason = 'loyalty_card_points_exceeded'
end
if reason ~= '' then
  fits = false
  if would_fit then
    held = 1
    local soonest = redis.call('ZRANGEBYSCORE', locks_key, '(' .. string.format('%d', now), '+inf',
      'WITHSCORES', 'LIMIT', 0, 2)
    local next_expiry = soonest[1] == own_member and soonest[4] or soonest[2]
    retry_after_ms = (next_expiry or book.locked_until) - now
  end
end
reply[n + 1], reply[n + 2], reply[n + 3] = reason, held, retry_after_ms
reply[n + 4] = quantity_limit == '-' and -1 or math.max(0, quantity_left)
reply[n + 5], reply[n + 6] = math.max(0, credits_left), math.max(0, points_left)

-- block: unlock
-- Takes the session's live lock out of `book`, which the caller saves. ZREM comes first: it is refused by a key of
-- another type, and a server that is out of memory allows it and all that follows it. What had left the index by other
-- hands has left the totals to repair.
local removed = redis.call('ZREM', book.locks_key, book.own_member)
redis.call('SET', session_name, book.own_text .. ' ' .. call, 'PX', TOMBSTONE_MS)
book.quantity_locked = book.quantity_locked - removed
book.credits_locked = book.credits_locked - removed * book.own_credits
book.points_locked = book.points_locked - removed * book.own_points
if book.quantity_locked <= 0 then
  book.next_expiry, book.locked_until = 0, 0
end

-- block: state
-- Answers with limits (quantity -1: without limit), used, locked; quantity, credits, points each.
do
  return {
    'state',
    quantity_limit == '-' and -1 or book.quantity_limit, book.credits_limit, book.points_limit,
    book.quantity_used, book.credits_used, book.points_used,
    book.quantity_locked, book.credits_locked, book.points_locked,
  }
end
