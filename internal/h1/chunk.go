package h1

// Limits of a chunked body (http-strictness B1, B2, B4).
const (
	maxSizeDigits    = 15
	maxExtension     = 256      // a line
	maxExtensions    = 16 << 10 // a body
	MaxTrailer       = 4000     // bytes: net/http looks for the end of the trailers inside its 4 KiB buffer
	maxTrailerFields = 32
)

// Chunks checks a chunked body while it passes, trailers included, and finds its end (RFC 9112 section 7.1). It keeps
// no bytes. The zero Chunks is at the start of a body.
type Chunks struct {
	state      chunkState
	remain     int64 // data bytes of the chunk, or its size so far
	digits     int
	extension  int // bytes of extension of the line
	extensions int // of the body
	trailer    int // bytes of the trailer section
	fields     int
	fault      *Fault
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart
	trailerName
	trailerValue
	trailerLF
	chunkEndLF
	chunkDone
)

// Check looks at the next bytes of the body. It returns how many of them are good; done tells that the body ended
// there, and what follows is not part of it. A fault stays: after it, no byte is good.
func (c *Chunks) Check(p []byte) (n int, done bool, f *Fault) {
	if c.fault != nil {
		return 0, false, c.fault
	}
	for n < len(p) && c.state != chunkDone {
		if c.state == chunkData {
			step := int(min(c.remain, int64(len(p)-n)))
			n += step
			c.remain -= int64(step)
			if c.remain == 0 {
				c.state = chunkDataCR
			}
			continue
		}
		if c.fault = c.step(p[n]); c.fault != nil {
			return n, false, c.fault
		}
		n++
	}
	return n, c.state == chunkDone, nil
}

// step takes one byte outside chunk data.
func (c *Chunks) step(b byte) *Fault {
	switch c.state {
	case chunkSize, chunkExtension, chunkSizeLF:
		return c.sizeLine(b)
	case chunkDataCR:
		if b != '\r' {
			return faultChunkEnd
		}
		c.state = chunkDataLF
	case chunkDataLF:
		if b != '\n' {
			return faultChunkEnd
		}
		c.state, c.remain, c.digits = chunkSize, 0, 0
	default:
		return c.trailerByte(b)
	}
	return nil
}

// sizeLine is rules B1 and B2: 1 to 15 hex digits, at once an optional extension, CRLF.
func (c *Chunks) sizeLine(b byte) *Fault {
	switch c.state {
	case chunkSize:
		if v := unhex(b); v >= 0 {
			c.digits++
			c.remain = c.remain<<4 | int64(v)
			if c.digits > maxSizeDigits {
				return faultChunkSize
			}
			return nil
		}
		if c.digits == 0 {
			return faultChunkSize
		}
		switch b {
		case '\r':
			c.state = chunkSizeLF
		case ';':
			c.state, c.extension = chunkExtension, 0
			return c.extend()
		default:
			return faultChunkSize
		}
	case chunkExtension:
		if b == '\r' {
			c.state = chunkSizeLF
			return nil
		}
		if classes[b]&classValue == 0 || b == '\t' {
			return faultChunkExt
		}
		return c.extend()
	case chunkSizeLF:
		if b != '\n' {
			return faultChunkSize
		}
		c.state = chunkData
		if c.remain == 0 {
			c.state = trailerStart
		}
	}
	return nil
}

func (c *Chunks) extend() *Fault {
	c.extension++
	c.extensions++
	if c.extension > maxExtension || c.extensions > maxExtensions {
		return faultChunkExt
	}
	return nil
}

// trailerByte is rule B4: field lines as in a head.
func (c *Chunks) trailerByte(b byte) *Fault {
	c.trailer++
	if c.trailer > MaxTrailer {
		return faultTrailerLimit
	}
	switch c.state {
	case trailerStart:
		if b == '\r' {
			c.state = chunkEndLF
			return nil
		}
		c.fields++
		if c.fields > maxTrailerFields {
			return faultTrailerLimit
		}
		if classes[b]&classToken == 0 {
			return faultTrailerLine
		}
		c.state = trailerName
	case trailerName:
		if b == ':' {
			c.state = trailerValue
		} else if classes[b]&classToken == 0 {
			return faultTrailerLine
		}
	case trailerValue:
		if b == '\r' {
			c.state = trailerLF
		} else if classes[b]&classValue == 0 {
			return faultTrailerLine
		}
	case trailerLF:
		if b != '\n' {
			return faultTrailerLine
		}
		c.state = trailerStart
	case chunkEndLF:
		if b != '\n' {
			return faultTrailerLine
		}
		c.state = chunkDone
	}
	return nil
}
