package streams

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// closeTimeout bounds telling the other side that a WebSocket is over.
const closeTimeout = time.Second

// wsConn is the net.Conn inside a WebSocket: the bytes of its binary messages, whose borders mean nothing. (client-go
// has one too, but with it comes the whole client, too much for an agent.)
type wsConn struct {
	*websocket.Conn
	message io.Reader // being read
	writing sync.Mutex
	once    sync.Once
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, r, err := c.NextReader()
			if closed := (*websocket.CloseError)(nil); errors.As(err, &closed) && closed.Code == websocket.CloseNormalClosure {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, fmt.Errorf("websocket: message of type %d inside a tunnel", kind)
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *wsConn) Close() error {
	var err error
	c.once.Do(func() {
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		err = c.WriteControl(websocket.CloseMessage, bye, time.Now().Add(closeTimeout))
		err = errors.Join(err, c.Conn.Close())
	})
	return err
}
