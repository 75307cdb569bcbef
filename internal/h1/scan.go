package h1

import "bytes"

// Scanner looks for the end of a head while its bytes arrive. It looks at each byte once, so a head that drips in
// costs no more than one that comes whole, and it refuses at once what can never become a head. The zero Scanner is
// at the start of a head; whether the head is right only Rules.Check says.
type Scanner struct {
	seen  int // bytes looked at
	line  int // where the line under way starts
	lines int // complete lines
}

// Scan is given all bytes that have come since the start of the head. It returns where the head ends, or 0 as long
// as it has not.
func (s *Scanner) Scan(b []byte) (end int, f *Fault) {
	for {
		i := bytes.IndexByte(b[s.seen:], '\n')
		if i < 0 {
			return 0, s.tail(b)
		}
		lf := s.seen + i
		if lf >= MaxHead {
			return 0, s.long()
		}
		if lf == 0 || b[lf-1] != '\r' {
			return 0, faultBareLF
		}
		if f := s.whole(b[s.line : lf-1]); f != nil {
			return 0, f
		}
		empty := lf-1 == s.line
		s.lines++
		s.seen, s.line = lf+1, lf+1
		if empty {
			return s.line, nil
		}
	}
}

// whole looks at a complete line, without its CRLF.
func (s *Scanner) whole(line []byte) *Fault {
	unseen := line[min(len(line), max(0, s.seen-s.line-1)):] // a CR may have been the last byte of the last look
	switch {
	case bytes.IndexByte(unseen, '\r') >= 0:
		return faultBareCR
	case bytes.IndexByte(unseen, 0) >= 0:
		return faultControl
	case s.lines == 0 && len(line) == 0:
		return faultEmptyFirst
	case s.lines == 0 && len(line) > maxLine:
		return faultTargetLong
	case s.lines > 0 && len(line) > 0 && blank(line[0]):
		return faultFolded
	case s.lines > MaxFields && len(line) > 0:
		return faultFields
	}
	return nil
}

// tail looks at the new bytes of a line that has not ended. A CR may be its last byte only.
func (s *Scanner) tail(b []byte) *Fault {
	unseen := b[max(s.line, s.seen-1):]
	if i := bytes.IndexByte(unseen, '\r'); i >= 0 && i < len(unseen)-1 {
		return faultBareCR
	}
	if bytes.IndexByte(unseen, 0) >= 0 {
		return faultControl
	}
	s.seen = len(b)
	if len(b) >= MaxHead || s.lines == 0 && len(b) > maxLine+1 {
		return s.long()
	}
	return nil
}

// long says which limit was passed: a request line that never ends has a target that is too long.
func (s *Scanner) long() *Fault {
	if s.lines == 0 {
		return faultTargetLong
	}
	return faultHeadLong
}
