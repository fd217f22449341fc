//! What an agent process links: attach to the rings, receive, stream a reply.
