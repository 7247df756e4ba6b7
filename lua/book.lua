-- The book of one voucher, and how locks enter and leave it. The verbs include this file.
--
-- vs:{CODE} is one STRING of twelve words, so that a script reads it, a session and a receipt in a single MGET:
--   life                      random, new whenever the code is created: a deleted voucher leaves its heir nothing
--   quantity credits points   the limits; quantity '-' is without limit
--   quantity credits points   used
--   quantity credits points   locked: the sum of vs:{CODE}:locks, expired locks not yet reclaimed included
--   next_expiry_ms            no lock expires before it
--   locked_until_ms           the last lock expires then: from then on nothing is locked, with no walk
-- vs:{CODE}:locks holds '<credits> <points> <session key>' by expiry in ms, and expires with its last lock.
-- vs:{CODE}:session:<key> is '<life> <expires_at_ms> <credits> <points>', and expires by itself.
--
-- A lock is live while now < expires_at_ms. Redis keeps a key through the very millisecond of its expiry, so what is
-- stored decides and not the key's presence; the native TTLs only give the memory back.
local BOOK = '^(%w+ (%S+) (%d+) (%d+)) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local SESSION = '^(%w+) (%d+) (%d+) (%d+)$'
local MAX_NUMBER = 9007199254740991 -- 2^53 - 1, what a double holds exactly: even a voucher without limit ends there
local NO_LOCK = {quantity = 0, credits = 0, points = 0, expires_at = 0} -- what a session holds that is not live

-- How many expired locks one script call reclaims at most: it bounds the time that the server is busy.
local reclaimable = 500

local function corrupt(key)
  error('CORRUPT ' .. key)
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Numbers travel as digits: Lua prints those from 1e14 up in scientific notation.
local function digits(number)
  return string.format('%.0f', number)
end

local function amounts(quantity, credits, points)
  return {quantity = tonumber(quantity) or MAX_NUMBER, credits = tonumber(credits), points = tonumber(points)}
end

local function open_book(key, locks_key, text)
  -- MGET shows a key of another type as absent; GET tells that it is somebody else's.
  text = text or redis.call('GET', key)
  if not text then
    return nil
  end
  local head, ql, cl, pl, qu, cu, pu, qk, ck, pk, next_expiry, locked_until = string.match(text, BOOK)
  if not head then
    corrupt(key)
  end
  return {
    key = key,
    locks_key = locks_key,
    head = head,
    life = string.match(head, '^%w+'),
    limit = amounts(ql, cl, pl),
    without_limit = ql == '-',
    used = amounts(qu, cu, pu),
    locked = amounts(qk, ck, pk),
    next_expiry = tonumber(next_expiry),
    locked_until = tonumber(locked_until),
  }
end

local function save_book(book)
  local used, locked = book.used, book.locked
  redis.call('SET', book.key, book.head .. string.format(' %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f',
    used.quantity, used.credits, used.points, locked.quantity, locked.credits, locked.points,
    book.next_expiry, book.locked_until))
end

-- No balance ever falls below zero, whatever hands reached into Redis.
local function add(balance, quantity, credits, points)
  balance.quantity = math.max(0, balance.quantity + quantity)
  balance.credits = math.max(0, balance.credits + credits)
  balance.points = math.max(0, balance.points + points)
end

-- Takes expired locks out of the book. True when more than a batch had expired: the script must answer 'again'.
local function reclaim(book, now)
  if now >= book.locked_until then
    book.locked = amounts(0, 0, 0)
    book.index_expired = book.locked_until > 0
    return false
  end
  if now < book.next_expiry then
    return false
  end
  local expired = redis.call('ZRANGEBYSCORE', book.locks_key, '-inf', digits(now), 'LIMIT', 0, reclaimable)
  for _, member in ipairs(expired) do
    local credits, points = string.match(member, '^(%d+) (%d+) ')
    if not credits then
      corrupt(book.locks_key)
    end
    add(book.locked, -1, -credits, -points)
  end
  if #expired > 0 then
    redis.call('ZREMRANGEBYRANK', book.locks_key, 0, #expired - 1)
    reclaimable = reclaimable - #expired
  end
  local first = redis.call('ZRANGE', book.locks_key, 0, 0, 'WITHSCORES')
  book.next_expiry = tonumber(first[2]) or book.locked_until
  save_book(book)
  return now >= book.next_expiry
end

-- The live lock that a session's text stands for, or NO_LOCK.
local function lock_of(book, session_key, text, now)
  if not text then
    return NO_LOCK
  end
  local life, expires_at, credits, points = string.match(text, SESSION)
  if not life then
    corrupt(book.key)
  end
  if life ~= book.life or now >= tonumber(expires_at) then
    return NO_LOCK
  end
  return {
    quantity = 1,
    credits = tonumber(credits),
    points = tonumber(points),
    expires_at = tonumber(expires_at),
    member = credits .. ' ' .. points .. ' ' .. session_key,
  }
end

-- The index lives until its last lock expires, and no longer. `gone` is the expiry of a lock that has just left it.
local function refit(book, gone)
  if gone == book.locked_until then
    local last = redis.call('ZRANGE', book.locks_key, -1, -1, 'WITHSCORES')
    book.locked_until = tonumber(last[2]) or book.locked_until
  end
  redis.call('PEXPIREAT', book.locks_key, digits(book.locked_until))
end

-- A script that fails half-way is not undone. The first write of a single voucher is refused where the index is
-- somebody else's; of a stack, all indexes are looked at before the first is written to.
local function check_indexes(books)
  if #books > 1 then
    for _, book in ipairs(books) do
      if book then
        redis.call('ZCARD', book.locks_key)
      end
    end
  end
end

-- Puts a session's lock into the book, in place of its old one; the caller saves the book. What comes first is refused,
-- before anything has changed, by a server that is out of memory; ZADD also by a key of another type.
local function lock(book, old, session_name, session_key, need, expires_at)
  local credits, points, expiry = digits(need.credits), digits(need.points), digits(expires_at)
  local member = credits .. ' ' .. points .. ' ' .. session_key
  local text = book.life .. ' ' .. expiry .. ' ' .. credits .. ' ' .. points
  if book.index_expired then
    -- It may stand until this millisecond ends, and its locks would then be taken out of the totals a second time.
    redis.call('SET', session_name, text, 'PXAT', expiry)
    redis.call('UNLINK', book.locks_key)
    redis.call('ZADD', book.locks_key, expiry, member)
  else
    redis.call('ZADD', book.locks_key, expiry, member)
    if old.member and old.member ~= member then
      redis.call('ZREM', book.locks_key, old.member)
    end
    redis.call('SET', session_name, text, 'PXAT', expiry)
  end
  if book.locked.quantity == 0 or expires_at < book.next_expiry then
    book.next_expiry = expires_at
  end
  add(book.locked, 1 - old.quantity, need.credits - old.credits, need.points - old.points)
  local gone = old.expires_at
  if expires_at >= book.locked_until then
    book.locked_until, gone = expires_at, nil
  end
  refit(book, gone)
end

-- Takes a live lock out of the book, which the caller saves. ZREM comes first: it is refused by a key of another type,
-- and a server that is out of memory allows it and all that follows it.
local function unlock(book, old, session_name)
  redis.call('ZREM', book.locks_key, old.member)
  redis.call('DEL', session_name)
  add(book.locked, -1, -old.credits, -old.points)
  if book.locked.quantity == 0 then
    book.next_expiry, book.locked_until = 0, 0
  elseif old.expires_at == book.locked_until then
    refit(book, old.expires_at)
  end
end

local function first_short(quantity, credits, points, need)
  if quantity < 1 then
    return 'quantity_exceeded'
  elseif need.credits > 0 and credits < need.credits then
    return 'gift_amount_exceeded'
  elseif need.points > 0 and points < need.points then
    return 'loyalty_card_points_exceeded'
  end
  return ''
end

-- Judges a need against limit - used - the locks of other sessions; `own` is the caller's. Adds to the reply: reason,
-- locked_by_others, retry_after_ms, quantity (-1: without limit), credits, points. True when the need fits.
local function judge(book, own, need, now, reply)
  local limit, used, locked = book.limit, book.used, book.locked
  local quantity, credits, points = limit.quantity - used.quantity, limit.credits - used.credits, limit.points - used.points
  local quantity_left = quantity - (locked.quantity - own.quantity)
  local credits_left = credits - (locked.credits - own.credits)
  local points_left = points - (locked.points - own.points)
  local reason = first_short(quantity_left, credits_left, points_left, need)
  local held, retry_after_ms = 0, 0
  if reason ~= '' and first_short(quantity, credits, points, need) == '' then
    held = 1
    local soonest = redis.call('ZRANGEBYSCORE', book.locks_key, '(' .. digits(now), '+inf',
      'WITHSCORES', 'LIMIT', 0, 2)
    local expires_at = soonest[1] == own.member and soonest[4] or soonest[2]
    retry_after_ms = (tonumber(expires_at) or book.locked_until) - now
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = reason, held, retry_after_ms
  reply[n + 4] = book.without_limit and -1 or math.max(0, quantity_left)
  reply[n + 5], reply[n + 6] = math.max(0, credits_left), math.max(0, points_left)
  return reason == ''
end

-- The book as a reply: limits (quantity -1: without limit), used, locked; quantity, credits, points each.
local function state(book)
  local limit, used, locked = book.limit, book.used, book.locked
  return {
    'state',
    book.without_limit and -1 or limit.quantity, limit.credits, limit.points,
    used.quantity, used.credits, used.points,
    locked.quantity, locked.credits, locked.points,
  }
end
