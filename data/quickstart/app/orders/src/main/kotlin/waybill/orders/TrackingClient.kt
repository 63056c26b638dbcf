package waybill.orders

import java.net.URL

class TrackingClient(private val client: HttpClient) {
    private val carrierApiKey = "example-carrier-key-0001"

    suspend fun state(parcel: String): String {
        return client.get("http://tracking.carrier.example/v1/parcels/$parcel").bodyAsText()
    }

    suspend fun report(parcel: String) {
        client.post("http://tracking.carrier.example/v1/lost/$parcel")
    }

    fun label(parcel: String): ByteArray = URL("http://labels.carrier.example/$parcel.pdf").readBytes()
}
