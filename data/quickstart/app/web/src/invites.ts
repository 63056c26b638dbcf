import jwt from "jsonwebtoken";
import type { Request, Response } from "express";

const inviteSecret = "example-invite-secret";

export function inviteCode() {
  return Math.floor(Math.random() * 1_000_000).toString();
}

export function accept(req: Request, res: Response) {
  const invite = jwt.decode(req.params.token);
  res.redirect(req.query.back as string);
  return { invite, inviteSecret };
}
