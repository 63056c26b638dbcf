import https from "node:https";

const partnerApiKey = "example-partner-key-12";

const agent = new https.Agent({ keepAlive: true, rejectUnauthorized: false });

export async function quote(weight: number) {
  const id = Math.random();
  return fetch(`https://quotes.partner.example/${weight}?id=${id}&key=${partnerApiKey}`, { agent } as RequestInit);
}
