package server

// openAPICache is filled in when the documents are first asked for.
type openAPICache struct{}

func (s *Server) serveOpenAPI(rq *request, path string) error { return errNotFoundPath() }
